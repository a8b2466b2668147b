"""The document against the code that it describes; the answers themselves are checked by tests/conformance."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from oip.errors import BY_STATUS
from oip.extensions import REPOSITORY_ENDPOINTS
from oip.messages import DTYPES
from oip.openapi import encode_openapi, openapi_document
from oip.routes import Endpoint, route_of

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCUMENT = openapi_document("1.2.3")


def _references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for member in value.values():
            yield from _references(member)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


def test_every_path_is_served_and_every_endpoint_described() -> None:
    """A path that the document names is routed to an endpoint of ours, and no required endpoint is left out."""
    paths = {path: path.replace("{", "").replace("}", "").encode() for path in DOCUMENT["paths"]}
    endpoints = {path: route_of(raw).endpoint for path, raw in paths.items()}
    undescribed = {Endpoint.UNKNOWN, Endpoint.FOREIGN, Endpoint.STATISTICS, *REPOSITORY_ENDPOINTS}
    assert set(endpoints.values()) == set(Endpoint) - undescribed
    for path, endpoint in endpoints.items():
        assert {"get", "post"} & set(DOCUMENT["paths"][path]) == {"post" if endpoint is Endpoint.INFER else "get"}
        named = [one["$ref"].rsplit("/", 1)[1] for one in DOCUMENT["paths"][path].get("parameters", [])]
        assert named == [name for name in ("model_name", "model_version") if f"{{{name}}}" in path]


def test_references_resolve() -> None:
    """A generated client never meets a dangling reference, and no component is there for nobody."""
    references = set(_references(DOCUMENT))
    for reference in references:
        node: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]
    components = {f"#/components/{kind}/{name}" for kind, all_ in DOCUMENT["components"].items() for name in all_}
    assert components == references


def test_datatypes_and_statuses_are_the_codes() -> None:
    """Datatypes and error statuses are those that the code knows, so that neither list can go stale."""
    datatype = DOCUMENT["components"]["schemas"]["request_input"]["properties"]["datatype"]
    assert datatype["enum"] == list(DTYPES)
    infer = DOCUMENT["paths"]["/v2/models/{model_name}/infer"]["post"]["responses"]
    assert {int(status) for status in infer} == {200, *BY_STATUS} - {405}


async def test_it_is_served(service: Any) -> None:  # noqa: ANN401 - the fixture's class
    """`GET /v2/openapi.json` answers with the document of this version."""
    answer = await service.call("GET", "/v2/openapi.json")
    assert (answer.status, answer.headers[b"content-type"]) == (200, b"application/json")
    served = json.loads(answer.body)
    assert served == json.loads(encode_openapi(served["info"]["version"]))
