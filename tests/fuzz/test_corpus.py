from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_what_was_kept(target: Callable[[bytes], None], corpus: list[Path]) -> None:
    """Every input that once led somewhere new, or broke a promise, is taken or refused as promised."""
    assert corpus
    for path in corpus:
        try:
            target(path.read_bytes())
        except Exception as error:  # noqa: BLE001 - whatever it is, the file's name has to be said
            pytest.fail(f"{path}: {error!r}")


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_is_like_it(target: Callable[[bytes], None], corpus: list[Path], data: st.DataObject) -> None:
    """Inputs of the corpus with bytes changed, cut out, put in, or taken from another one."""
    contents = [path.read_bytes() for path in corpus]
    body = bytearray(data.draw(st.sampled_from(contents)))
    for _ in range(data.draw(st.integers(0, 4))):
        start = data.draw(st.integers(0, len(body)))
        end = min(len(body), start + data.draw(st.integers(0, 8)))
        body[start:end] = data.draw(st.binary(max_size=4) | st.sampled_from(contents).map(lambda other: other[:40]))
    target(bytes(body))
