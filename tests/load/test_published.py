from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from published import NoSection, publish

if TYPE_CHECKING:
    from pathlib import Path


def test_only_the_named_section_changes(tmp_path: Path) -> None:
    """What stands around it and in other sections stays, and a second time replaces the first."""
    page = tmp_path / "page.md"
    page.write_text(
        "a\n<!-- figures: one -->\nold\n<!-- end of figures -->\nb\n<!-- figures: two -->\n<!-- end of figures -->\n"
    )
    publish(page, "one", "new 1")
    publish(page, "one", "new 2\n")
    assert page.read_text() == (
        "a\n<!-- figures: one -->\nnew 2\n<!-- end of figures -->\nb\n<!-- figures: two -->\n<!-- end of figures -->\n"
    )
    with pytest.raises(NoSection, match="three"):
        publish(page, "three", "x")


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("load.md", ["load, one machine", "load, cluster", "soak, one machine"]),
        ("chaos.md", ["chaos, one machine"]),
    ],
)
def test_the_pages_have_the_sections(pytestconfig: pytest.Config, page: str, names: list[str]) -> None:
    """A proof of half an hour must not end in vain because its section is missing."""
    text = (pytestconfig.rootpath / "docs" / page).read_text()
    assert re.findall(r"<!-- figures: (.*?) -->", text) == names
    assert text.count("<!-- end of figures -->") == len(names)
