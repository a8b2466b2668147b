"""Where Redis is and how to log in, read from the operator's settings.

What belongs here: the forms of the address, and what is wrong with one. What does not: connecting.

The URL is the one place where a secret stands beside things that are worth quoting, so no message quotes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from transformer.errors import BadSettings

if TYPE_CHECKING:
    from urllib.parse import SplitResult

DEFAULT_PORT = 6379
SCHEMES = ("redis", "rediss", "unix")
QUERY = ("db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """One Redis, and the login there.

    Attributes:
        host: Name or address; not used with `path`.
        port: TCP port; not used with `path`.
        path: Of a Unix domain socket; "" for TCP.
        db: Number of the database.
        username: "" for the default user.
        password: "" for no login.
        tls: Whether TLS is spoken; the certificate and its host name are always checked.
        ssl_ca_certs: File with the authorities to trust beside the system's own; "" for these alone.
        ssl_certfile: File with the client's certificate, for mutual TLS; "" for none.
        ssl_keyfile: File with its key; "" when the certificate's file holds it.
    """

    host: str = "localhost"
    port: int = DEFAULT_PORT
    path: str = ""
    db: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False
    ssl_ca_certs: str = ""
    ssl_certfile: str = ""
    ssl_keyfile: str = ""


def parse_redis_url(url: str, password: str = "") -> RedisAddress:
    """Read `redis[s]://[[user]:password@]host[:port][/db]` or `unix://[[user]:password@]/path[?db=0]`.

    With `rediss`, TLS, these may follow: `?ssl_ca_certs=FILE&ssl_certfile=FILE&ssl_keyfile=FILE`.

    Args:
        url: The address.
        password: Used when the URL holds none, so that the URL can be written where everybody may read it.

    Raises:
        BadSettings: What is wrong with the URL, without quoting it.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or DEFAULT_PORT
    except ValueError:
        raise BadSettings("REDIS_URL: is no URL, or its port is no number from 1 to 65535") from None
    if parts.scheme not in SCHEMES:
        raise BadSettings(f"REDIS_URL: must begin with one of {', '.join(f'{scheme}://' for scheme in SCHEMES)}")
    query = _query(parts)
    local = parts.scheme == "unix"
    return RedisAddress(
        host=parts.hostname or "localhost",
        port=port,
        path=unquote(parts.path) if local else "",
        db=_database(query.pop("db", "" if local else parts.path.lstrip("/"))),
        username=unquote(parts.username or ""),
        password=unquote(parts.password or "") or password,
        tls=parts.scheme == "rediss",
        **query,
    )


def _query(parts: SplitResult) -> dict[str, str]:
    query = dict(parse_qsl(parts.query))
    allowed = QUERY if parts.scheme == "rediss" else QUERY[:1]
    for name in query:
        if name not in allowed:
            raise BadSettings(f"REDIS_URL: has an unknown option; {parts.scheme}:// knows {', '.join(allowed)}")
    return query


def _database(text: str) -> int:
    if text and not text.isdecimal():
        raise BadSettings("REDIS_URL: the database must be a whole number")
    return int(text or 0)
