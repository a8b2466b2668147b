"""AWS Signature Version 4 for reading from S3.

What belongs here: the headers that prove to S3 who asks. What does not: asking.

Source: Amazon S3 API reference, "Authenticating Requests: Using the Authorization Header (AWS Signature Version 4)";
the names in the code are those of its steps.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

_ALGORITHM = "AWS4-HMAC-SHA256"
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class Key:
    """An access key.

    Attributes:
        key_id: Its public name.
        secret_key: What the two sides share.
        session_token: What belongs to a temporary key; None for a lasting one.
        region: Where the key signs for.
    """

    key_id: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(repr=False)
    region: str


def signed_headers(
    key: Key, host: str, path: str, query: Mapping[str, str], now: datetime, **headers: str
) -> dict[str, str]:
    """The headers of a GET, signature included.

    Args:
        key: Who asks.
        host: The host with its port, as the request's `Host` has it.
        path: The path, percent-encoded as it is sent.
        query: The parameters, not encoded.
        now: The time in UTC; S3 refuses what differs from its own by more than 15 minutes.
        headers: Further headers that are to be signed; `_` stands for `-` in their names.
    """
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    given = {name.lower().replace("_", "-"): value for name, value in headers.items()}
    given |= {"host": host, "x-amz-content-sha256": _EMPTY_SHA256, "x-amz-date": stamp}
    if key.session_token is not None:
        given["x-amz-security-token"] = key.session_token
    names = ";".join(sorted(given))
    lines = "".join(f"{name}:{given[name].strip()}\n" for name in sorted(given))
    canonical_request = "\n".join(["GET", path, canonical_query(query), lines, names, _EMPTY_SHA256])
    scope = f"{stamp[:8]}/{key.region}/s3/aws4_request"
    digest = hashlib.sha256(canonical_request.encode()).hexdigest()
    signature = _hmac(_signing_key(key, stamp[:8]), f"{_ALGORITHM}\n{stamp}\n{scope}\n{digest}").hex()
    authorization = f"{_ALGORITHM} Credential={key.key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    return given | {"authorization": authorization}


def canonical_query(query: Mapping[str, str]) -> str:
    """The query string, sorted and with everything encoded but letters, digits and `-._~`; it is also what is sent."""
    return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted(query.items()))


def _signing_key(key: Key, day: str) -> bytes:
    signing_key = f"AWS4{key.secret_key}".encode()
    for step in (day, key.region, "s3", "aws4_request"):
        signing_key = _hmac(signing_key, step)
    return signing_key


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
