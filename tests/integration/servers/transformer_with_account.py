"""The transformer with a service account from the folder CLUSTER_ACCOUNT in place of the mounted one."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from transformer import __main__ as transformer
from transformer import assembly, kubernetes_api

assembly.in_cluster = functools.partial(kubernetes_api.in_cluster, directory=Path(os.environ["CLUSTER_ACCOUNT"]))
transformer.main()
