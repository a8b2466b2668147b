"""What real servers write to their logs, whatever clients send."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from oip.codec import encode_request
from oip.messages import InferRequest, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PASSWORD, SECRET = "hunter2-of-redis", "s3cret-of-s3"
SAMPLE = "0.98765432"
"""A number that stands in every body that is sent, and nowhere else."""

PREDICT, INFER = "/api/v1/inference/predict", "/v2/models/localization/infer"
JSON_SIZE = "inference-header-content-length"


def _lines(server: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - of conftest.py
    return [json.loads(line) for line in server.log.read_text().splitlines()]


def _binary(iq: Any) -> tuple[bytes, dict[str, str]]:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    encoded = encode_request(InferRequest((Tensor("iq", iq),)), binary=True)
    return encoded.body, {JSON_SIZE: str(encoded.json_size)}


@pytest.fixture
def servers(fleet: Any, model_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """Transformer and predictor that know secrets, and write all there is to write."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    predictor = fleet.predictor(model_dir("reference"), "--log_level", "DEBUG")
    transformer = fleet.transformer(predictor.address, "--redis_url", f"redis://:{PASSWORD}@127.0.0.1:9")
    transformer.wait_until(transformer.ready)
    return transformer, predictor


def test_no_sample_and_no_secret_is_in_any_log(servers: tuple[Any, Any], drawn: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """Every line is a JSON object; good requests, all kinds of bad ones and a crash bring nothing else to light."""
    transformer, predictor = servers
    iq = np.array(drawn.iq[:1])
    iq[0, 0, 0, 0] = np.float32(SAMPLE)
    rest = json.dumps({"iq_data": iq[0].tolist()}).replace(str(float(iq[0, 0, 0, 0])), SAMPLE)
    bodies = [rest, rest[:-20], rest.replace(SAMPLE, f'"{SAMPLE}"', 1), rest.replace(SAMPLE, f"{SAMPLE}, NaN", 1)]
    bodies += [f'{{"iq_data": [[{SAMPLE}]]}}', SAMPLE]
    body, headers = _binary(iq)
    broken = np.array(iq)
    broken[0, 1] = np.nan
    for server in servers:
        for text in bodies:
            server.call("POST", PREDICT, text.encode())
            server.call("POST", INFER, text.encode())
        for data, told in ((body, headers), (body[:-7], headers), _binary(broken), (body, {JSON_SIZE: "9"})):
            server.call("POST", INFER, data, told)
    predictor.stop(9)
    assert transformer.call("POST", INFER, *_binary(iq * np.float32(1.1))).status == 503
    for server in servers:
        log = server.log.read_text()
        assert len(_lines(server)) > 5
        assert [word for word in (PASSWORD, SECRET, SAMPLE, str(np.float32(SAMPLE))[:9]) if word in log] == []


def test_a_failure_can_be_found_by_its_request(servers: tuple[Any, Any], drawn: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """The line of a failed request has its id as a field, and the version and digest that it was about."""
    transformer, predictor = servers
    digest = predictor.call("GET", "/v2/models/localization").json["parameters"]["model_digest"]
    body, headers = _binary(np.array(drawn.iq[:1, :, :100]))
    assert transformer.call("POST", INFER, body, headers | {"x-request-id": "r-short"}).status == 400
    wrong = json.dumps({"inputs": [{"name": "log_mel", "shape": [1], "datatype": "FP32", "data": [0]}]}).encode()
    assert predictor.call("POST", INFER, wrong, {"x-request-id": "r-wrong"}).status == 400
    for server, request_id in ((transformer, "r-short"), (predictor, "r-wrong")):
        (line,) = [one for one in _lines(server) if one.get("request_id") == request_id]
        assert (line["level"], line["version"], line["model_digest"]) == ("INFO", "1", digest)
