"""Health and metadata: `inference_rest.md` (IR) "Payload Contents", and `required_api.md` (RA) where it says more."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

if TYPE_CHECKING:
    from tests.conformance.conftest import Answer, Target

pytestmark = pytest.mark.profile("core")

DATATYPES = {f"{kind}{bits}" for kind in ("UINT", "INT", "FP") for bits in (8, 16, 32, 64)} - {"FP8"}
DATATYPES |= {"BOOL", "BYTES", "BF16"}  # Triton added BF16


def _says_yes(answer: Answer, *names: str) -> bool:
    """RA wants an empty body, IR an object; IR's server-ready object has `live`, which KServe calls `ready`."""
    if not answer.body:
        return True
    members = json.loads(answer.body)
    return any(members.get(name) is True for name in names)


def _versions(target: Target) -> list[str]:
    versions = target.metadata.get("versions")
    if not versions:
        pytest.skip("IR: versions are optional, and the model names none")
    return list(versions)


def test_server_live(target: Target) -> None:
    """IR "Server Live", RA "Health": GET v2/health/live is 200 while the server can answer."""
    answer = target.call("/v2/health/live")
    assert answer.status == 200
    assert _says_yes(answer, "live")


def test_server_ready(target: Target) -> None:
    """IR "Server Ready": GET v2/health/ready is 200 when all models are ready."""
    answer = target.call("/v2/health/ready")
    assert answer.status == 200
    assert _says_yes(answer, "ready", "live")


def test_model_ready(target: Target) -> None:
    """IR "Model Ready": GET v2/models/M/ready is 200, with the model's name and `ready` if it has a body."""
    answer = target.call(f"{target.path}/ready")
    assert answer.status == 200
    assert _says_yes(answer, "ready")
    assert not answer.body or answer.members["name"] == target.model_name


def test_ready_of_a_version(target: Target) -> None:
    """IR's table: the version may stand in the path of the readiness probe."""
    for version in _versions(target):
        assert target.call(f"{target.path}/versions/{version}/ready").status == 200


def test_unknown_model_is_not_ready(target: Target) -> None:
    """RA "Health": no is a 4xx status."""
    assert 400 <= target.call("/v2/models/no-such-model/ready").status < 500


def test_server_metadata(target: Target) -> None:
    """IR "Server Metadata Response": 200 with the strings `name` and `version` and the array `extensions`."""
    answer = target.call("/v2")
    members = answer.members
    assert answer.status == 200
    assert isinstance(members["name"], str)
    assert isinstance(members["version"], str)
    assert all(isinstance(one, str) for one in members["extensions"])


def test_server_metadata_is_json(target: Target) -> None:
    """IR "HTTP/REST": answers are JSON, and say so."""
    assert target.call("/v2").headers["content-type"].startswith("application/json")


def test_model_metadata_names(target: Target) -> None:
    """IR "Model Metadata Response": `name` and `platform` are strings, the name is the one asked for."""
    members = target.call(target.path).members
    assert members["name"] == target.model_name
    assert isinstance(members["platform"], str)


def test_model_metadata_versions(target: Target) -> None:
    """IR "Model Metadata Response": `versions` is optional; if it is there it is an array of strings, not null."""
    versions = target.metadata.get("versions", [])
    assert isinstance(versions, list)
    assert all(isinstance(version, str) for version in versions)


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_tensor_metadata(target: Target, side: str) -> None:
    """IR "$metadata_tensor": name, a known datatype, and a shape of whole numbers where -1 is variable."""
    assert target.metadata[side]
    for tensor in target.metadata[side]:
        assert isinstance(tensor["name"], str)
        assert tensor["datatype"] in DATATYPES
        assert all(type(size) is int and size >= -1 for size in tensor["shape"])


def test_metadata_of_a_version(target: Target) -> None:
    """IR "Model Metadata": what `versions` names can be asked for by version."""
    for version in _versions(target):
        answer = target.call(f"{target.path}/versions/{version}")
        assert (answer.status, answer.members["name"]) == (200, target.model_name)


def test_unknown_model(target: Target) -> None:
    """IR "Model Metadata Response JSON Error Object": an error status, and an object with `error`."""
    target.call("/v2/models/no-such-model").refuses()


def test_unknown_version(target: Target) -> None:
    """IR, the same, for a version that the model does not have; a server without versions may answer 501."""
    target.call(f"{target.path}/versions/987654321").refuses(400, 404, 501)


def test_unknown_version_of_inference(target: Target) -> None:
    """IR "Inference Response JSON Error Object", the same for inference."""
    body = json.dumps({"inputs": target.inputs()}).encode()
    answer = target.call(f"{target.path}/versions/987654321/infer", body, {"Content-Type": "application/json"})
    answer.refuses(400, 404, 501)


def test_names_are_case_sensitive(target: Target) -> None:
    """RA "HTTP/REST": all strings in all contexts are case-sensitive."""
    target.call(f"/v2/models/{quote(target.model_name.swapcase())}").refuses()
