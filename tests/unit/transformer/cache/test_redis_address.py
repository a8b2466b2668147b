from __future__ import annotations

import pytest

from transformer.errors import BadSettings
from transformer.redis_address import RedisAddress, parse_redis_url


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://cache", RedisAddress(host="cache")),
        ("redis://cache:6380/3", RedisAddress(host="cache", port=6380, db=3)),
        ("redis://cache/?db=4", RedisAddress(host="cache", db=4)),
        ("redis://[::1]:7000", RedisAddress(host="::1", port=7000)),
        ("redis://:s%40fe@cache", RedisAddress(host="cache", password="s@fe")),  # noqa: S106 - made up
        ("redis://me:pw@cache", RedisAddress(host="cache", username="me", password="pw")),  # noqa: S106 - made up
        (
            "rediss://cache?ssl_ca_certs=/ca.pem&ssl_certfile=/c.pem&ssl_keyfile=/k.pem",
            RedisAddress("cache", tls=True, ssl_ca_certs="/ca.pem", ssl_certfile="/c.pem", ssl_keyfile="/k.pem"),
        ),
        ("unix:///run/redis.sock?db=1", RedisAddress(path="/run/redis.sock", db=1)),
    ],
)
def test_each_form_of_the_url_is_read(url: str, address: RedisAddress) -> None:
    """Host, port, database, login, TLS and sockets are found where redis-py's users write them."""
    assert parse_redis_url(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "cache:6379",
        "http://s3cret@cache",
        "redis://:s3cret@cache:port",
        "redis://:s3cret@cache:99999",
        "redis://:s3cret@cache/db",
        "redis://:s3cret@cache?socket_timeout=60",
        "redis://:s3cret@cache?ssl_ca_certs=/ca.pem",
        "rediss://:s3cret@cache?ssl_cert_reqs=none",
        "redis://:s3cret@[cache",
    ],
)
def test_what_is_wrong_is_said_without_the_secret(url: str) -> None:
    """A bad URL stops the process with a message that names the setting and quotes nothing of it."""
    with pytest.raises(BadSettings, match="REDIS_URL") as caught:
        parse_redis_url(url)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_password_can_stand_beside_the_url() -> None:
    """A password of its own completes a URL without one, and does not override one."""
    assert parse_redis_url("redis://cache", "pw").password == "pw"  # noqa: S105 - made up
    assert parse_redis_url("redis://:own@cache", "pw").password == "own"  # noqa: S105 - made up


def test_the_password_does_not_appear_when_printed() -> None:
    """An address in a log or a traceback shows no password."""
    assert "s3cret" not in repr(parse_redis_url("redis://:s3cret@cache"))
