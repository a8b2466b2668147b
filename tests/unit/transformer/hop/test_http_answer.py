from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer.http_answer import AnswerReader, BadAnswer, HttpAnswer

BODY = bytes(range(256)) * 3
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 768\r\nX-A: one\r\nx-a: two\r\n\r\n" + BODY
CHUNKED = (
    b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\nRetry-After: 4\r\n\r\n"
    b"100;ext=1\r\n" + BODY[:256] + b"\r\n200\r\n" + BODY[256:] + b"\r\n0\r\nX-Trailer: 1\r\n\r\n"
)
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + LENGTH
TO_THE_END = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n" + BODY
NOTHING = b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"
ANSWERS = {
    LENGTH: (200, BODY, True),
    CHUNKED: (503, BODY, True),
    INTERIM: (200, BODY, True),
    TO_THE_END: (200, BODY, False),
    NOTHING: (204, b"", True),
    b"HTTP/1.1 304 Not Modified\r\n\r\n": (304, b"", True),
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok": (200, b"ok", False),
    b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok": (200, b"ok", False),
    b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok": (200, b"ok", True),
}


def feed(reader: AnswerReader, data: bytes, cuts: list[int]) -> None:
    """Feed the data in pieces that end at these places."""
    for start, end in pairwise([0, *sorted({cut % (len(data) + 1) for cut in cuts} - {0, len(data)}), len(data)]):
        reader.feed(memoryview(data)[start:end])


def answer_of(reader: AnswerReader) -> HttpAnswer:
    """The answer that has to be complete by now."""
    assert reader.answer is not None
    return reader.answer


@given(st.sampled_from(sorted(ANSWERS)), st.lists(st.integers(0, 5000), max_size=20))
def test_pieces_do_not_matter(data: bytes, cuts: list[int]) -> None:
    """However the bytes arrive, the answer is the same, whole, and says whether its connection can be used again."""
    reader = AnswerReader()
    feed(reader, data, cuts)
    reusable = reader.reusable
    reader.end()
    answer = answer_of(reader)
    assert (answer.status, answer.body, reusable) == ANSWERS[data]
    assert not reader.reusable  # after its end no connection is


@pytest.mark.parametrize("data", sorted(ANSWERS))
def test_every_cut_is_seen(data: bytes) -> None:
    """An answer that ends before its end is never taken for a complete one, wherever that is."""
    for size in range(len(data)):
        reader = AnswerReader()
        reader.feed(data[:size])
        # Without a length the end of the connection is the end of the body: nobody can see such a cut.
        unseen = data is TO_THE_END and size >= data.index(b"\r\n\r\n") + 4
        before = reader.answer
        reader.end()
        assert before is None
        assert (reader.answer is not None) == unseen


def test_begun() -> None:
    """Nothing has begun with line ends or interim answers; with the first byte of the final answer it has."""
    reader = AnswerReader()
    for piece, begun in ((b"\r\n", False), (b"HTTP/1.1 100 Continue\r\n\r\n", False), (b"H", True)):
        reader.feed(piece)
        assert reader.begun is begun


def test_headers() -> None:
    """Names are lower case, the last of equal ones counts, and neither interim heads nor trailers are among them."""
    reader = AnswerReader()
    reader.feed(INTERIM)
    assert answer_of(reader).headers == {b"content-length": b"768", b"x-a": b"two"}
    reader.reset()
    reader.feed(CHUNKED)
    assert answer_of(reader).headers == {b"transfer-encoding": b"chunked", b"retry-after": b"4"}


@given(st.lists(st.sampled_from(sorted(d for d, a in ANSWERS.items() if a[2])), min_size=2, max_size=6))
def test_one_after_the_other(many: list[bytes]) -> None:
    """One reader reads the answers of a connection in turn; nothing of one is left in the next."""
    reader = AnswerReader()
    for data in many:
        reader.reset()
        reader.feed(data)
        assert (answer_of(reader).status, answer_of(reader).body, reader.reusable) == ANSWERS[data]


@given(st.sampled_from([LENGTH, CHUNKED, NOTHING]), st.binary(min_size=1, max_size=40), st.booleans())
def test_what_nobody_asked_for(data: bytes, garbage: bytes, together: bool) -> None:  # noqa: FBT001 - drawn
    """Whatever follows an answer leaves it as it is, and makes its connection useless."""
    reader = AnswerReader()
    for piece in (data + garbage,) if together else (data, garbage):
        reader.feed(piece)
    assert (answer_of(reader).status, answer_of(reader).body) == ANSWERS[data][:2]
    if garbage.strip(b"\r\n") or not together:  # line ends between messages are passed over (RFC 9112, section 2.2)
        assert not reader.reusable


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX\x00Y: 1\r\n\r\n",
    ],
)
def test_no_answers(data: bytes) -> None:
    """What is not an answer by HTTP is refused instead of guessed at."""
    reader = AnswerReader()
    with pytest.raises(BadAnswer):
        reader.feed(data + b"\r\n")
    assert reader.answer is None
    assert not reader.reusable


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n" + b"X: y\r\n" * 40,
        b"HTTP/1.1 200 OK\r\nContent-Length: 301\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n97\r\n" + b"x" * 151 + b"\r\n97\r\n" + b"x" * 151,
        b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 301,
    ],
)
def test_bounds(data: bytes) -> None:
    """Heads, interim answers, trailers and bodies that never end are given up, however slowly they come."""
    reader = AnswerReader(max_head_bytes=100, max_body_bytes=300)

    def drip() -> None:
        for place in range(len(data)):
            reader.feed(data[place : place + 1])

    with pytest.raises(BadAnswer, match="more than"):
        drip()
    assert reader.answer is None
