from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, StringStringEntryProto, TensorProto, helper

from rollout.onnx_file import MalformedError, external_names, metadata


def model(locations: tuple[str, ...] = (), **entries: str) -> ModelProto:
    """A model that keeps tensors in other files, with metadata."""
    tensors = []
    for number, location in enumerate(locations):
        tensor = TensorProto(name=f"w{number}", data_type=TensorProto.FLOAT, dims=[1])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.append(StringStringEntryProto(key="location", value=location))
        tensors.append(tensor)
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    made = helper.make_model(helper.make_graph([], "g", [value], [value], tensors))
    helper.set_model_props(made, entries)
    return made


@given(st.dictionaries(st.text(min_size=1), st.text(), max_size=4))
def test_metadata_is_what_the_onnx_package_wrote(entries: dict[str, str]) -> None:
    """The walk over the wire form agrees with the library that defines it, for any text."""
    made = model(**{f"k{key}": value for key, value in entries.items()})
    expected = {one.key: one.value for one in made.metadata_props}
    assert metadata(made.SerializeToString()) == expected


def test_long_values_have_long_lengths() -> None:
    """Contracts are longer than the 127 bytes of a one-byte length."""
    assert metadata(model(contract="x" * 70_000).SerializeToString())["contract"] == "x" * 70_000


@pytest.mark.parametrize(
    ("locations", "names"),
    [
        ((), set()),
        (("model.onnx.data", "sub/./more.data"), {"model.onnx.data", "sub/more.data"}),
        (("/etc/passwd", "../secret", "."), set()),
        (("n" * 200,), {"n" * 200}),
    ],
)
def test_names_of_external_data(locations: tuple[str, ...], names: set[str]) -> None:
    """Those that leave the model's folder are never asked for."""
    assert external_names(model(locations).SerializeToString()) == names


@given(st.binary(max_size=60))
def test_other_bytes_are_no_model(content: bytes) -> None:
    """Any bytes end in an answer or in an error, never in anything else."""
    with contextlib.suppress(MalformedError, UnicodeDecodeError):
        assert isinstance(metadata(content), dict)


@pytest.mark.parametrize("content", [b"\x72\x7f", b"\x73", b"\xff" * 20, b"\xff", b"\x7d\x00\x00\x00\x00\x73"])
def test_what_is_malformed(content: bytes) -> None:
    """Beyond the end, groups, and numbers that do not end."""
    with pytest.raises(MalformedError):
        metadata(content)


def test_fields_without_a_length_are_passed_over() -> None:
    """Numbers of fixed size and varints."""
    assert metadata(b"\x08\x05" + b"\x0d1234" + b"\x0912345678" + b"\x72\x03\x0a\x01k") == {"k": ""}
