from __future__ import annotations

import threading
from typing import Any

import orjson
import pytest

from oip.errors import InvalidRequest
from oip.json_document import KEPT_BYTES, LAZY_BYTES, parse_object
from oip.json_tensors import array_from_json


def _text(numbers: range) -> bytes:
    return orjson.dumps({"inputs": [{"name": "x", "data": list(numbers)}]})


def _read(document: dict[str, Any], size: int) -> list[int]:
    array = array_from_json(document["inputs"][0]["data"], "INT64", (size,), "data")
    return list(map(int, array))


@pytest.mark.parametrize("count", [1000, 250_000])
def test_documents_held_at_the_same_time(count: int) -> None:
    """A document stays what it was while others of the same thread are parsed, whatever their size."""
    ranges = [range(start, start + count) for start in (0, 7, 70)]
    documents = [parse_object(_text(numbers)) for numbers in ranges]
    assert (len(_text(ranges[0])) > KEPT_BYTES) is (count == 250_000)
    assert [_read(document, count) for document in documents] == [list(numbers) for numbers in ranges]


def test_threads_share_no_parser() -> None:
    """Documents parsed in several threads at once do not meet."""
    wrong: list[int] = []

    def parse(start: int) -> None:
        for shift in range(50):
            numbers = range(start + shift, start + shift + 1000)
            if _read(parse_object(_text(numbers)), 1000) != list(numbers):
                wrong.append(start)

    threads = [threading.Thread(target=parse, args=(start,)) for start in (0, 10_000, 20_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_good_document_after_a_broken_one() -> None:
    """What could not be parsed leaves nothing behind."""
    good = _text(range(1000))
    assert len(good) >= LAZY_BYTES
    for _ in range(3):
        with pytest.raises(InvalidRequest, match="not valid JSON"):
            parse_object(good[:-1])
        assert _read(parse_object(good), 1000) == list(range(1000))
