"""Every manifest, judged by the API server and the webhooks of KServe and Knative."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


@pytest.mark.parametrize("name", ["quickstart", "production", "canary-10", "collocated"])
def test_the_api_server_accepts(service: Service, name: str) -> None:
    """A dry run on the server: schemas, admission and Pod Security warnings included."""
    path = service.manifest.with_name(f"{name}.yaml")
    service.cluster.kubectl("apply", "--server-side", "--dry-run=server", "--force-conflicts", "-f", str(path))
