from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.contract import Contract
from predictor.errors import ArtifactError

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_canonical_text_and_digest() -> None:
    """Keys sorted, no spaces, UTF-8 kept: the digest is SHA-256 of exactly that (computed with sha256sum)."""
    contract = Contract.parse('{ "b": [1, 2.5],\n "a": "Cité" }', "a test")
    assert contract.text == '{"a":"Cité","b":[1,2.5]}'
    assert contract.digest == "sha256:" + hashlib.sha256('{"a":"Cité","b":[1,2.5]}'.encode()).hexdigest()


@given(st.dictionaries(st.text(), _VALUES, max_size=4))
def test_layout_does_not_matter(members: dict[str, object]) -> None:
    """Order and spacing change neither text nor digest, and the canonical text is its own canonical form."""
    reversed_order = json.dumps(dict(reversed(members.items())), indent=2)
    contract = Contract.parse(reversed_order, "a test")
    assert contract == Contract.parse(json.dumps(members), "a test") == Contract.parse(contract.text, "a test")
    assert json.loads(contract.text) == members


@pytest.mark.parametrize(
    "text", ["", "[]", '"a"', "{", '{"a":NaN}', '{"a":-Infinity}', '{"a":1,"a":2}', '{"a":' * 100_000]
)
def test_what_is_not_a_contract(text: str) -> None:
    """Anything but a JSON object with unique keys and JSON numbers is refused, naming the source."""
    with pytest.raises(ArtifactError, match="the contract in here"):
        Contract.parse(text, "here")
