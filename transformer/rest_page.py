"""The page that shows the REST API and lets a person try it, in any browser and without any other host.

What belongs here: reading the page, and the headers that keep a browser from doing anything else with it. What does
not: the page itself (`rest_page.html`, one file with its script and style) and the API's description (`rest_openapi`).
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oip.http import Header


@dataclass(frozen=True, slots=True)
class Page:
    """A document of the REST API: its bytes, and what a browser is told about them."""

    body: bytes
    content_type: bytes
    headers: tuple[Header, ...] = ()


@cache
def docs_page() -> Page:
    """The page. Its policy allows its own script and style, by their digests, and calls of the same origin."""
    html = (files("transformer") / "rest_page.html").read_bytes()
    policy = (
        "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"frame-ancestors 'none'; script-src {_digest(html, b'script')}; style-src {_digest(html, b'style')}"
    )
    headers = (
        (b"content-security-policy", policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cache-control", b"no-cache"),
    )
    return Page(html, b"text/html; charset=utf-8", headers)


def _digest(html: bytes, tag: bytes) -> str:
    """The source expression of the only element of that name (Content Security Policy Level 3, §2.3.1)."""
    (text,) = re.findall(rb"<%s>(.*?)</%s>" % (tag, tag), html, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"
