"""TCP ports for the servers that tests start as processes of their own."""

from __future__ import annotations

import socket


def held_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on, and that nobody else is given while this process lives.

    A port that is only asked for and let go again may be somebody else's by the time a slow server takes it.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a listener that sets it too may have the port
    holder.bind(("127.0.0.1", 0))
    port = int(holder.getsockname()[1])
    holder.detach()  # it never listens, and stays as long as this process
    return port
