"""The OpenAPI document against the real server: whatever fits it or misses it, answers are as the document says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
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

from oip.openapi import openapi_document

if TYPE_CHECKING:
    from schemathesis import Case

    from tests.conformance.conftest import Target

pytestmark = pytest.mark.profile("own")

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
GROWTH_BYTES = 48 * 1024 * 1024
SCHEMA = schemathesis.openapi.from_dict(openapi_document("0"))


def test_the_server_describes_itself(guarded: Target) -> None:
    """`GET /v2/openapi.json` is the document from which the cases below are made, but for the version."""
    served = guarded.call("/v2/openapi.json").members
    assert openapi_document(served["info"]["version"]) == served


@SCHEMA.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_answers_are_as_described(case: Case, guarded: Target) -> None:
    """No 5xx, no hang, statuses, headers and bodies as described; the model exists in half of the cases."""
    for name, value in (("model_name", "echo"), ("model_version", "1")):
        if len(case.path_parameters.get(name, "")) % 2:
            case.path_parameters[name] = value
    headers = case.headers or {}
    for name in [name for name in headers if name.lower() == "x-request-timeout-ms" and headers[name].isdigit()]:
        headers[name] = headers[name] + "0000"  # a budget of a few milliseconds is rightly answered with 504
    before = _resident_bytes(guarded)
    answer = case.call(base_url=guarded.url, timeout=5)
    refused = case.method == "GET" or answer.status_code == 413  # which the check does not know as a refusal
    case.validate_response(answer, checks=CHECKS if refused else [*CHECKS, negative_data_rejection])
    assert answer.elapsed < 3
    assert _resident_bytes(guarded) - before < GROWTH_BYTES


def _resident_bytes(target: Target) -> int:
    assert target.process is not None
    status = Path(f"/proc/{target.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024
