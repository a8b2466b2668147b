"""The load proof of tests/load against the service on the cluster."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Service

pytestmark = [pytest.mark.e2e, pytest.mark.proof, pytest.mark.timeout(5400)]

_LONGEST_S = 5300.0


def test_the_load_proof(service: Service, pytestconfig: pytest.Config) -> None:
    """100 clients for five minutes, an open loop, 1 to 200 clients and batches: no request fails, no answer is wrong.

    HEIMDALL_PROOF_ARGS may hold other sizes; the report goes to build/proofs and the figures to docs/load.md.
    """
    root = pytestconfig.rootpath
    command = [sys.executable, str(root / "tests" / "load" / "prove.py"), "load", "--out", "build/proofs/load-cluster"]
    command += ["--url", service.ingress, "--host", service.host, "--namespace", "heimdall"]
    own = shlex.split(os.environ.get("HEIMDALL_PROOF_ARGS", "--docs docs/load.md"))
    done = subprocess.run([*command, *own], cwd=root, capture_output=True, text=True, timeout=_LONGEST_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
