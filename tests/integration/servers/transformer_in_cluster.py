"""The transformer as it runs in a cluster, with what only a cluster has put in its place.

Cluster DNS and Knative's route: CLUSTER_HOSTS is a JSON object of host names and the local ports that they lead to.
The mounted service account: CLUSTER_ACCOUNT is its folder. Everything else is the transformer's own.
"""

from __future__ import annotations

import functools
import json
import os
import socket
from pathlib import Path

import aiohttp.connector
from aiohttp.abc import AbstractResolver, ResolveResult

from transformer import __main__ as transformer
from transformer import assembly, kubernetes_api

HOSTS: dict[str, int] = json.loads(os.environ["CLUSTER_HOSTS"])
ACCOUNT = Path(os.environ["CLUSTER_ACCOUNT"])


class ClusterDns(AbstractResolver):
    """Leads every known name to its local port."""

    def __init__(self, **_options: object) -> None:
        pass

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The one address of a name; a name without one does not exist."""
        if host not in HOSTS:
            raise OSError(None, f"{host}:{port} is not known")
        return [ResolveResult(hostname=host, host="127.0.0.1", port=HOSTS[host], family=family, proto=0, flags=0)]

    async def close(self) -> None:
        """Nothing is open."""


aiohttp.connector.DefaultResolver = ClusterDns  # type: ignore[misc, assignment]  # the same interface
assembly.in_cluster = functools.partial(kubernetes_api.in_cluster, directory=ACCOUNT)
transformer.main()
