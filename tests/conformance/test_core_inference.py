"""Inference that succeeds: `inference_rest.md` (IR) "Inference", `required_api.md` (RA) "Tensor Data", "Parameters"."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from tests.conformance.conftest import Target

pytestmark = pytest.mark.profile("core")

EXTREMES: dict[str, list[Any]] = {
    "BOOL": [True, False],
    **{f"UINT{bits}": [0, 2**bits - 1] for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] for bits in (8, 16, 32, 64)},
    "FP16": [0.5, -65504],
    "FP32": [0.10000000149011612, -3.4028234663852886e38],
    "FP64": [0.1, -1.7976931348623157e308],
    "BYTES": ["", 'Città "1"\n'],
}
"""Ends of the ranges, exactly representable in the datatype (IEEE 754: FP16 and FP32 as their decimal FP64 value)."""


def test_all_outputs_by_default(target: Target) -> None:
    """IR "Inference Request": without `outputs`, every output of the model is returned."""
    outputs = target.infer({"inputs": target.inputs()}).outputs
    assert sorted(outputs) == sorted(one["name"] for one in target.metadata["outputs"])


def test_response_members(target: Target) -> None:
    """IR "Inference Response": `model_name` is the model's, `model_version` and `parameters` are not null."""
    members = target.infer({"inputs": target.inputs()}).members
    assert members["model_name"] == target.model_name
    assert isinstance(members.get("model_version", ""), str)
    assert isinstance(members.get("parameters", {}), dict)


def test_response_output(target: Target) -> None:
    """RA "Response Output": each has name, shape and datatype as in the metadata, and `data`."""
    outputs = target.infer({"inputs": target.inputs(batch=3)}).outputs
    for told in target.metadata["outputs"]:
        entry = outputs[told["name"]]
        assert entry["datatype"] == told["datatype"]
        assert entry["shape"] == target.shape(told["datatype"], batch=3)
        assert isinstance(entry["data"], list)
        assert isinstance(entry.get("parameters", {}), dict)


def test_response_is_json(target: Target) -> None:
    """IR "Inference Request Examples": the answer says that it is JSON."""
    answer = target.infer({"inputs": target.inputs()})
    assert answer.headers["content-type"].startswith("application/json")


def test_id_comes_back(target: Target) -> None:
    """IR "Inference Request": an `id` that was given is returned."""
    assert target.infer({"id": "42-é", "inputs": target.inputs()}).members["id"] == "42-é"


def test_no_id(target: Target) -> None:
    """IR "Inference Response": `id` is a string, also where the client gave none; a null is none."""
    assert isinstance(target.infer({"inputs": target.inputs()}).members.get("id", ""), str)


def test_version_in_the_path(target: Target) -> None:
    """IR's table: inference by version, and `model_version` is that version."""
    versions = target.metadata.get("versions") or pytest.skip("IR: versions are optional, and the model names none")
    body = json.dumps({"inputs": target.inputs()}).encode()
    answer = target.call(f"{target.path}/versions/{versions[0]}/infer", body, {"Content-Type": "application/json"})
    assert answer.members["model_version"] == versions[0]


def test_each_datatype(target: Target, datatype: str) -> None:
    """RA "Tensor Data": every datatype can be given and comes back as JSON, to the ends of its range."""
    entry = target.entry(datatype, EXTREMES[datatype])
    output = target.infer({"inputs": target.inputs(entry)}).outputs[target.names(datatype)[1]]
    if datatype.startswith("FP"):  # a server may write as many digits as it likes
        assert [getattr(np, f"float{datatype[2:]}")(one) for one in output["data"]] == entry["data"]
    else:
        assert output["data"] == entry["data"]


def test_flat_and_nested(target: Target) -> None:
    """RA "Tensor Data": the natural and the flat form mean the same, in row-major order."""
    entry = target.entry("FP32", [1, 2, 4, 5], batch=2)
    rest = target.inputs(batch=2)
    nested = entry | {"data": [[1, 2], [4, 5]]}
    assert entry["shape"] == [2, 2]
    for one in (entry, nested):
        inputs = [one if other["name"] == one["name"] else other for other in rest]
        assert _flat(target.infer({"inputs": inputs}).outputs[target.names("FP32")[1]]["data"]) == [1, 2, 4, 5]


def _flat(data: list[Any]) -> list[Any]:
    return [number for row in data for number in (row if isinstance(row, list) else [row])]


def test_a_whole_batch(target: Target) -> None:
    """IR "Request Input": shape and data are those of the entire batch."""
    entry = target.entry("FP32", range(10), batch=5)
    inputs = [entry if one["name"] == entry["name"] else one for one in target.inputs(batch=5)]
    output = target.infer({"inputs": inputs}).outputs[target.names("FP32")[1]]
    assert (output["shape"], _flat(output["data"])) == ([5, 2], list(range(10)))


def test_chosen_outputs(target: Target) -> None:
    """IR "Inference Request": `outputs` names the tensors to return, and no others are."""
    name = target.metadata["outputs"][-1]["name"]
    assert list(target.infer({"inputs": target.inputs(), "outputs": [{"name": name}]}).outputs) == [name]


def test_two_chosen_outputs(target: Target) -> None:
    """The same for several, whatever their order."""
    names = [one["name"] for one in target.metadata["outputs"]][:2][::-1]
    asked = [{"name": name} for name in names]
    assert sorted(target.infer({"inputs": target.inputs(), "outputs": asked}).outputs) == sorted(names)


def test_inputs_in_any_order(target: Target) -> None:
    """IR "Request Input": inputs have names, so their order means nothing."""
    inputs = target.inputs()
    forward, backward = (target.infer({"inputs": one}).outputs for one in (inputs, inputs[::-1]))
    assert forward == backward


@pytest.mark.parametrize("value", ["text", 1, 1.5, True])
@pytest.mark.parametrize("place", ["request", "input", "output"])
def test_parameters(target: Target, place: str, value: object) -> None:
    """RA "Parameters": strings, numbers and booleans are allowed on requests, inputs and outputs."""
    given = {"parameters": {"x-unknown": value}}
    request: dict[str, Any] = {"inputs": target.inputs(), "outputs": [{"name": target.metadata["outputs"][0]["name"]}]}
    {"request": request, "input": request["inputs"][0], "output": request["outputs"][0]}[place].update(given)
    assert target.infer(request).status == 200


def test_no_parameters(target: Target) -> None:
    """RA "Parameters": an object of zero parameters is one."""
    request = {"parameters": {}, "inputs": [one | {"parameters": {}} for one in target.inputs()]}
    assert target.infer(request).status == 200


def test_json_is_json(target: Target) -> None:
    """RFC 8259: white space between tokens, escapes and the order of members carry no meaning."""
    text = json.dumps({"inputs": target.inputs()}, indent=2, sort_keys=True).replace("inputs", "\\u0069nputs")
    assert target.infer(b" \r\n\t" + text.encode() + b"\n").status == 200


def test_utf8(target: Target) -> None:
    """RFC 8259 section 8.1: JSON is UTF-8; text outside the basic plane survives, escaped or not."""
    entry = target.entry("BYTES", ["𝄞 ß", "\x7f"])
    request = {"inputs": target.inputs(entry)}
    for text in (json.dumps(request), json.dumps(request, ensure_ascii=False)):
        output = target.infer(text.encode()).outputs[target.names("BYTES")[1]]
        assert output["data"] == entry["data"]
