"""The transformer as it runs in a cluster, with what only a cluster has put in its place.

Cluster DNS and Knative's route: CLUSTER_HOSTS is a JSON object of host names and the local ports that they lead to.
The mounted service account: CLUSTER_ACCOUNT is its folder. Everything else is the transformer's own.
"""

from __future__ import annotations

import functools
import json
import os
from dataclasses import replace
from pathlib import Path

from transformer import assembly, http_client, kubernetes_api, predictor_client

HOSTS: dict[str, int] = json.loads(os.environ["CLUSTER_HOSTS"])
ACCOUNT = Path(os.environ["CLUSTER_ACCOUNT"])
NOWHERE = 1
"""A port on which nobody listens: a name that the cluster does not know."""


def routed(base_url: str) -> http_client.Origin:
    """Where a name leads to, with the header Host as the name says it."""
    origin = http_client.origin_of(base_url)
    return replace(origin, host="127.0.0.1", port=HOSTS.get(origin.host, NOWHERE))


predictor_client.origin_of = routed  # type: ignore[assignment]  # the same interface, without its cache
assembly.in_cluster = functools.partial(kubernetes_api.in_cluster, directory=ACCOUNT)

if __name__ == "__main__":
    from transformer.__main__ import main

    main()
