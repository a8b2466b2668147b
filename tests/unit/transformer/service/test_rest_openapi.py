from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import orjson
import pytest
import schemathesis

from transformer import rest_examples
from transformer.rest_openapi import DEGRADED, rest_document
from transformer.rest_page import docs_page

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oip.messages import Array

PREFIX = "/api/v1/inference"
DOCUMENT = rest_document("1.2.3", PREFIX, 256)
EXAMPLES = [
    ("predict_request", rest_examples.PREDICT),
    ("batch_request", rest_examples.BATCH_REQUEST),
    ("prediction", rest_examples.PREDICTION),
    ("batch", rest_examples.BATCH),
    ("model_info", rest_examples.MODEL_INFO),
    ("health", rest_examples.HEALTH),
    ("health", rest_examples.UNHEALTHY),
]


def _check(name: str, value: object) -> None:
    """Fail unless the value is as the document's schema of that name says."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    checker = jsonschema.FormatChecker(["date-time"])
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(value)


def _body(iq: Array, **members: Any) -> bytes:  # noqa: ANN401 - any JSON
    return orjson.dumps({"iq_data": iq[0]} | members, option=orjson.OPT_SERIALIZE_NUMPY)


def test_it_is_openapi() -> None:
    """A foreign judge takes it for an OpenAPI 3.1 document."""
    schemathesis.openapi.from_dict(DOCUMENT).validate()


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_examples(name: str, example: Mapping[str, object]) -> None:
    """The examples are as their schemas say, and the schemas refuse a member more."""
    _check(name, example)
    with pytest.raises(jsonschema.ValidationError):
        _check(name, {**example, "surprise": 1})


async def test_answers_are_as_described(rest: Any, iq: Array) -> None:  # noqa: ANN401 - of conftest.py
    """What the application answers has the members of the document, all of them and no others."""
    for name, path in (("model_info", "/model/info"), ("health", "/health")):
        _check(name, (await rest.call("GET", path)).json)
    one = await rest.call("POST", "/predict", _body(iq, confidence_level=0.5))
    _check("prediction", one.json)
    batch = await rest.call("POST", "/predict/batch", b'{"predictions":[%s]}' % _body(iq))
    _check("batch", batch.json)
    _check("model_info", (await rest.call("GET", "/model/info")).json)
    _check("error", (await rest.call("POST", "/predict", b"{")).json)


async def test_doubts_are_described(rest: Any, predictor: Any, iq: Array) -> None:  # noqa: ANN401 - of conftest.py
    """Reasons for doubt that really come are among those of the document."""
    predictor.outputs = {"position": np.array([[60.0, 8.0]])}
    answer = await rest.call("POST", "/predict", _body(iq * np.float32(3e-3)))
    _check("prediction", answer.json)
    assert answer.json["degraded"] == ["power", "outside_region"]
    assert set(answer.json["degraded"]) <= set(DEGRADED)


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"session_id": None, "cache_enabled": None, "confidence_level": None, "full_scale_dbm": None},
        {"session_id": "s" * 256, "cache_enabled": False, "confidence_level": 0.5, "full_scale_dbm": -50},
        {"session_id": ""},
        {"session_id": "s" * 257},
        {"cache_enabled": 1},
        {"confidence_level": 1},
        {"confidence_level": 0},
        {"confidence_level": "0.9"},
        {"full_scale_dbm": -200.5},
        {"full_scale_dbm": 101},
        {"sessionId": "s"},
    ],
)
async def test_the_document_takes_what_the_service_takes(rest: Any, iq: Array, members: dict[str, Any]) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """Limits of the request's members are the same in the document and in the code."""
    body = _body(iq, **members)
    status = (await rest.call("POST", "/predict", body)).status
    try:
        _check("predict_request", orjson.loads(body))
    except jsonschema.ValidationError:
        assert status == 400
    else:
        assert status in {200, 422}  # 422: a full scale at which these samples are too loud


@pytest.mark.parametrize("prefix", [PREFIX, ""])
async def test_it_is_published(rest: Any, prefix: str) -> None:  # noqa: ANN401 - of conftest.py
    """Document and page are served with and without the prefix; they are read only."""
    document = await rest.call("GET", f"{prefix}/openapi.json")
    assert (document.status, document.headers[b"content-type"]) == (200, b"application/json")
    assert document.json["paths"].keys() == DOCUMENT["paths"].keys()
    page = await rest.call("GET", f"{prefix}/docs")
    assert (page.status, page.headers[b"content-type"]) == (200, b"text/html; charset=utf-8")
    refused = await rest.call("POST", f"{prefix}/docs")
    assert (refused.status, refused.headers[b"allow"]) == (405, b"GET, HEAD")


async def test_every_path_is_described(rest: Any) -> None:  # noqa: ANN401 - of conftest.py
    """The document has the application's paths and methods, and no others."""
    for path, item in DOCUMENT["paths"].items():
        for method in ("get", "post"):
            answer = await rest.call(method.upper(), path)
            assert (answer.status == 405) == (method not in item), (method, path)
    assert rest.foreign == []
    assert DOCUMENT["paths"].keys() == {*rest.app._handlers, *rest.app._pages}  # noqa: SLF001 - to compare with it


def test_the_page_needs_nobody() -> None:
    """The policy forbids everything but the page itself and its own origin; the page names no other address."""
    page = docs_page()
    policy = dict(page.headers)[b"content-security-policy"].decode()
    assert policy.startswith("default-src 'none'; connect-src 'self'; ")
    assert len(re.findall(r"(?:script|style)-src 'sha256-[A-Za-z0-9+/=]{44}'", policy)) == 2
    assert "unsafe" not in policy
    assert not re.search(rb"https?://|//[a-z]+\.|\son[a-z]+=|style=|innerHTML", page.body)
