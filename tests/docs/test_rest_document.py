from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from transformer.rest_openapi import rest_document

if TYPE_CHECKING:
    from schemathesis import Case

    from tests.docs.conftest import Demo

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
PREFIX = "/api/v1/inference"
SCHEMA = schemathesis.openapi.from_dict(rest_document("0", PREFIX, 256))
_CALL_S, _SLOW_S = 10, 5


@SCHEMA.parametrize()
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_answers_are_as_described(case: Case, demo: Demo) -> None:
    """No 5xx, no hang; statuses, headers and bodies as described, whatever fits the document or misses it.

    A time budget of a millisecond is another test's; here it would hide what the rest of the request does.
    """
    case.headers.pop("x-request-timeout-ms", None)
    answer = case.call(base_url=demo.url + PREFIX, timeout=_CALL_S)
    without_body = case.method == "GET"  # and its headers, the budget apart, may say anything
    case.validate_response(answer, checks=CHECKS if without_body else [*CHECKS, negative_data_rejection])
    assert answer.elapsed < _SLOW_S


@SCHEMA.include(path="/predict").parametrize()
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_fits_is_answered(case: Case, demo: Demo) -> None:
    """A real capture with whatever members the document allows is located, or its scale is refused by name."""
    if not isinstance(case.body, dict) or case.meta.generation.mode.is_negative:
        return
    members: dict[str, Any] = json.loads((demo.folder / "build/demo/request.json").read_bytes())
    case.body = {**case.body, **members}
    case.headers = {}
    answer = case.call(base_url=demo.url + PREFIX, timeout=_CALL_S)
    case.validate_response(answer, checks=CHECKS)
    assert answer.status_code == 200 or (answer.status_code == 422 and b"full_scale_dbm" in answer.content)
