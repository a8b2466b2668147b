"""How the text of an option becomes a value, for the settings of both components.

What belongs here: readers of single values; each raises `ValueError` with the end of the sentence "OPTION TEXT: …".
What does not: which options there are, and their defaults.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

DAY_S = 24 * 3600
"""No setting in seconds means more than a day; a larger one is a slip."""

_DECIMAL = re.compile(r"[0-9]+(\.[0-9]*)?")


def whole(minimum: int, maximum: int = 2**31 - 1) -> Callable[[str], int]:
    """Reads a whole number within these bounds."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and minimum <= int(text) <= maximum):
            raise ValueError(f"is not a whole number from {minimum} to {maximum}")
        return int(text)

    return read


def seconds(*, positive: bool = True) -> Callable[[str], float]:
    """Reads a number of seconds up to a day, above 0 or from 0 on."""

    def read(text: str) -> float:
        if not _DECIMAL.fullmatch(text) or float(text) > DAY_S or (positive and not float(text)):
            raise ValueError(f"is not a number of seconds {'above' if positive else 'from'} 0 and up to one day")
        return float(text)

    return read


def flag(text: str) -> bool:
    """Reads true or false, in the usual words for them."""
    if text.lower() not in {"true", "false", "1", "0", "yes", "no", "on", "off"}:
        raise ValueError("is neither true nor false")
    return text.lower() in {"true", "1", "yes", "on"}


def matching(pattern: str, what: str) -> Callable[[str], str]:
    """Reads a text that the whole pattern matches; `what` says it in words."""

    def read(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise ValueError(f"is not {what}")
        return text

    return read
