"""Figures in the documentation: a section between two comments that a proof writes anew.

What belongs here: finding the section and replacing it. What does not: what stands in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_END = "<!-- end of figures -->"


class NoSection(Exception):
    """The file has no section of that name."""


def publish(path: Path, name: str, text: str) -> None:
    """Put the text between `<!-- figures: NAME -->` and the next `<!-- end of figures -->`.

    Raises:
        NoSection: One of the two comments is missing.
    """
    begin = f"<!-- figures: {name} -->"
    before, found, rest = path.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(_END)
    if not found or not ended:
        raise NoSection(f"{path} has no section '{begin} … {_END}'")
    path.write_text(f"{before}{begin}\n{text.strip()}\n{_END}{after}", encoding="utf-8")
