import json

import pytest

from oip import metadata
from oip.errors import BadUpstream, InvalidRequest
from oip.messages import ModelMetadata, ServerMetadata, TensorMetadata

MODEL = ModelMetadata(
    "m",
    "onnxruntime_onnx",
    (TensorMetadata("x", "FP32", (-1, 7)), TensorMetadata("s", "BYTES", ())),
    (TensorMetadata("y", "FP64", (-1,)),),
    ("1", "2"),
    {"model_digest": "sha256:0", "n": 1},
)


def test_model_metadata_members() -> None:
    """OIP "Model Metadata": the member names of the response object."""
    members = json.loads(metadata.encode_model_metadata(MODEL))
    assert members["versions"] == ["1", "2"]
    assert members["inputs"][0] == {"name": "x", "datatype": "FP32", "shape": [-1, 7]}
    assert set(members) == {"name", "versions", "platform", "inputs", "outputs", "parameters"}


def test_empty_members_are_left_out() -> None:
    """OIP does not let versions and parameters be null."""
    members = json.loads(metadata.encode_model_metadata(ModelMetadata("m", "p", (), ())))
    assert members == {"name": "m", "platform": "p", "inputs": [], "outputs": []}


def test_model_metadata_round_trip() -> None:
    """What the predictor says is what the transformer reads."""
    assert metadata.decode_model_metadata(metadata.encode_model_metadata(MODEL)) == MODEL


def test_server_metadata_round_trip() -> None:
    """OIP "Server Metadata"; the binary extension is announced."""
    server = ServerMetadata("s", "1", ("binary_tensor_data",))
    body = metadata.encode_server_metadata(server)
    assert json.loads(body) == {"name": "s", "version": "1", "extensions": ["binary_tensor_data"]}
    assert metadata.decode_server_metadata(body) == server


@pytest.mark.parametrize(
    "members",
    [
        [],
        {},
        {"name": "m", "versions": [1]},
        {"name": "m", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-2]}]},
        {"name": "m", "inputs": [{"name": "x", "datatype": "FLOAT", "shape": [1]}]},
        {"name": "m", "inputs": [1]},
        {"name": "m", "version": "1", "extensions": [1]},
    ],
)
def test_nonsense_from_upstream(members: object) -> None:
    """Wrong metadata of another server is its fault: 502."""
    body = json.dumps(members).encode()
    with pytest.raises(BadUpstream, match="upstream"):
        metadata.decode_model_metadata(body if isinstance(members, list) or "extensions" not in members else b"")
    with pytest.raises(BadUpstream, match="upstream"):
        metadata.decode_server_metadata(body)


def test_error_round_trip() -> None:
    """The message and the details arrive; a proxy's page has neither."""
    error = InvalidRequest("no", details={"contract_digest": "d"})
    assert metadata.decode_error(metadata.encode_error(error)) == ("no", {"contract_digest": "d"})
    assert metadata.decode_error(b"<html>") == ("", {})
    assert metadata.decode_error(b'{"error":1}') == ("", {})


def test_health_bodies() -> None:
    """The bodies of the health endpoints."""
    assert metadata.encode_flag("live", value=True) == b'{"live":true}'
    assert json.loads(metadata.encode_model_ready("m", ready=False)) == {"name": "m", "ready": False}
