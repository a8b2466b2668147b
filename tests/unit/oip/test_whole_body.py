from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from oip.whole_body import WholeBody


@given(pieces=st.lists(st.tuples(st.integers(1, 50), st.booleans()), min_size=1))
def test_pieces(pieces: list[tuple[int, bool]]) -> None:
    """Pieces that are copied in and pieces that are written in place stand one behind the other."""
    size = sum(length for length, _ in pieces)
    text = bytes(index % 251 for index in range(size))
    body, at = WholeBody(size), 0
    for length, copied in pieces:
        piece = text[at : at + length]
        if copied:
            assert body.put(piece) == length
        else:
            body.room[:length] = piece
            body.arrived(length)
        at += length
        assert (body.missing, len(body.room)) == (size - at, size - at)
    assert bytes(body) == text


def test_what_does_not_belong_to_it() -> None:
    """What is behind the body is left to whoever offered it."""
    body = WholeBody(3)
    assert body.put(memoryview(b"abcd")) == 3
    assert body.put(b"e") == 0
    assert bytes(body) == b"abc"


def test_the_application_gets_what_was_written_to() -> None:
    """The body is one object from the first byte on; where somebody could still write to it, it is a copy instead."""
    body = WholeBody(5)
    place = body.room
    body.put(b"abcde")
    copy = bytes(body)
    place[0] = ord("x")
    assert copy == b"abcde"
    place.release()
    whole, again = bytes(body), bytes(body)
    assert whole is again
    assert whole == b"xbcde"
