"""A bad new revision: the old one answers everything, and the reason can be read within 30 s."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Load, Service

pytestmark = [pytest.mark.e2e, pytest.mark.proof, pytest.mark.timeout(600)]

VISIBLE_S = 30.0


@pytest.fixture(autouse=True)
def settled(service: Service) -> Iterator[None]:
    """Each bad model starts from one good revision, and is taken away again."""
    yield
    service.set_predictor({})
    service.settle()
    service.cluster.wait_until(lambda: not _failed(service), VISIBLE_S, "the status has left the last bad model behind")


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


@pytest.mark.parametrize("service", ["quickstart", "collocated"], indirect=True)
@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        ("missing", r"heimdall-models/missing/model\.onnx"),
        ("wrong_key", r"the secret of the access key is wrong \(SignatureDoesNotMatch\)"),
        ("corrupt", r"/mnt/models/model\.onnx is not a model"),
        ("never_ready", r"RevisionFailed"),
    ],
)
def test_the_old_revision_answers_and_the_reason_is_visible(
    service: Service,
    load: Callable[..., Load],
    wrong_key: dict[str, Any],
    variant: str,
    reason: str,
    record_property: Callable[[str, object], None],
) -> None:
    """A canary that cannot start takes no request from the old revision, and `kubectl describe` says why."""
    with load(rate_hz=10.0) as sent:
        service.roll_out(variant, percent=10, **(wrong_key if variant == "wrong_key" else {}))
        told_s = service.cluster.wait_until(
            lambda: re.search(reason, _described(service)), VISIBLE_S, "the reason is told"
        )
        failed_s = told_s + service.cluster.wait_until(lambda: _failed(service), VISIBLE_S - told_s, "Ready is False")
    record_property(variant, f"reason {told_s:.1f} s, Ready=False {failed_s:.1f} s; {sent.summary()}")
    assert not sent.failed
    assert {one.digest for one in sent.sent} == {service.digests["reference"]}


def _described(service: Service) -> str:
    """What is told of the state; the specification before it names the model, whether or not it is there."""
    return service.cluster.kubectl("describe", "inferenceservice", "localization").partition("\nStatus:")[2]


def _failed(service: Service) -> bool:
    conditions = service.spec()["status"]["conditions"]
    return {one["type"]: one["status"] for one in conditions}["Ready"] == "False"
