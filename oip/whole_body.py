"""A request's body that is received straight into the object that the application gets.

What belongs here: the memory of one body while it arrives. What does not: which bodies are received so, and when
(`http_connection`), and the reading itself (`read_buffer`).

A body of 250 kB that goes through the parser is copied three times on its way: out of the reader's buffer as `bytes`,
behind what came before it, and as `bytes` again for the application. Where its size is known before, the kernel can
write it to where it stays.
"""

from __future__ import annotations

import ctypes
import io

MAX_WHOLE_BYTES = 1024 * 1024
"""No larger body is received so, because its memory is taken before any of it has come, and counts from then on
(`http`)."""

# Part of CPython's C interface: with NULL for its content, a bytes object that is filled before anybody sees it.
# `bytes(size)` would write zeros first; a client that announces much and sends nothing would then hold real memory.
_bytes_to_be_filled = ctypes.pythonapi.PyBytes_FromStringAndSize
_bytes_to_be_filled.argtypes = (ctypes.c_char_p, ctypes.c_ssize_t)
_bytes_to_be_filled.restype = ctypes.py_object


class WholeBody:
    """The body of one request, as far as it has come.

    `bytes(body)` is how uvicorn takes what it gives to the application. Once the body is complete and nobody writes to
    it any more, that is the object that was written to, and no copy of it.

    Args:
        size: Of all of it, at least 1.
    """

    __slots__ = ("_bytes", "_room", "missing")

    def __init__(self, size: int) -> None:
        self._bytes = io.BytesIO(_bytes_to_be_filled(None, size))  # which takes over the only reference
        self._room = self._bytes.getbuffer()
        self.missing = size

    @property
    def room(self) -> memoryview:
        """Where the rest of the body goes; empty when there is none."""
        return self._room

    def arrived(self, size: int) -> None:
        """So many bytes were written to the beginning of `room`."""
        self.missing -= size
        self._room = self._room[size:]

    def put(self, data: bytes | memoryview) -> int:
        """Write what fits of `data` to `room`, and return how much that was."""
        size = min(len(data), self.missing)
        self._room[:size] = data[:size]
        self.arrived(size)
        return size

    def __bytes__(self) -> bytes:
        """The body, once it is complete."""
        self._room.release()  # as long as anybody could write, `getvalue` makes a copy
        return self._bytes.getvalue()
