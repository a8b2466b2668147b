from __future__ import annotations

import ast
import json
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from oip.errors import BY_STATUS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.docs.conftest import Block, Demo

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
_BASH = shutil.which("bash") or "bash"
_LANGUAGES = {"sh", "python", "json", "yaml", "text", ""}


def _documents(root: Path) -> list[Path]:
    return [root / "README.md", root / "CHANGELOG.md", *sorted((root / "docs").rglob("*.md"))]


def test_links(root: Path) -> None:
    """Every relative link leads to a file, and to a heading of it if it names one."""
    broken = []
    for path in _documents(root):
        for match in _LINK.finditer(_FENCED.sub("", path.read_text(encoding="utf-8"))):
            target, _, heading = (match[1] or match[2]).partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            file = (path.parent / target) if target else path
            if not file.exists() or (heading and heading not in _headings(file)):
                broken.append(f"{path.relative_to(root)}: {match[0]}")
    assert not broken


def _headings(path: Path) -> set[str]:
    """The anchors that a document's headings get: lower case, without punctuation, with hyphens for spaces."""
    titles = re.findall(r"^#+ (.*)$", _FENCED.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_is_in_the_index(root: Path) -> None:
    """docs/README.md links every page, so that none is found by chance only."""
    index = (root / "docs/README.md").read_text(encoding="utf-8")
    pages = {str(path.relative_to(root / "docs")) for path in (root / "docs").rglob("*.md")}
    assert not {page for page in pages - {"README.md"} if f"]({page})" not in index and "/" not in page}


def test_pages_that_are_written_by_a_program(root: Path) -> None:
    """Settings and values are as in the code and the chart; `tests/docs/reference_pages.py` writes them again."""
    for path, text in runpy.run_path(str(root / "tests/docs/reference_pages.py"))["pages"]().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is out of date"


def test_make_has_the_targets(root: Path) -> None:
    """A `make` that a document tells to run is one that there is."""
    targets = set(re.findall(r"^([\w-]+):", (root / "Makefile").read_text(), re.MULTILINE))
    for path in _documents(root):
        told = set(re.findall(r"(?:^ +|`|^)make ([a-z][\w-]*)", path.read_text(encoding="utf-8"), re.MULTILINE))
        assert told <= targets, path.name


def test_modules_that_are_run(root: Path) -> None:
    """`python -m NAME` and `python FILE` of a document name a program of this repository, or an installed one."""
    known = {path.parent.name for path in root.glob("*/__main__.py")} | {"pytest", "rollout"}
    for path in _documents(root):
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r"python3? -m (\w+)", text)) <= known, path.name
        for file in re.findall(r"python3? ((?:bench|tests|charts)/\S+\.py)", text):
            assert (root / file).is_file(), f"{path.name}: {file}"


def test_commands_of_runbooks_are_code(root: Path) -> None:
    """Whatever stands under "How to look" is a sentence or an indented block: no command runs on into a paragraph."""
    for path in sorted((root / "docs/runbooks").glob("*.md")):
        _, found, section = path.read_text(encoding="utf-8").partition("\n## How to look\n")
        assert found, path.name
        for block in section.partition("\n## ")[0].strip("\n").split("\n\n"):
            indented = all(line.startswith("    ") for line in block.splitlines())
            assert indented or (block.endswith((".", ":")) and "\n    " not in block), f"{path.name}: {block}"


def test_blocks_parse(root: Path, blocks: Callable[[Path], list[Block]]) -> None:
    """Every fenced block is what it says it is."""
    for path in _documents(root):
        for block in blocks(path):
            assert block.language in _LANGUAGES, block.place
            try:
                _parse(block)
            except (ValueError, SyntaxError, yaml.YAMLError, subprocess.CalledProcessError) as error:
                pytest.fail(f"{block.place}: {error}")


def _parse(block: Block) -> None:
    if block.language == "python":
        ast.parse(block.text)
    elif block.language == "json":
        json.loads(block.text)
    elif block.language == "yaml":
        list(yaml.safe_load_all(block.text))
    elif block.language == "sh":
        subprocess.run([_BASH, "-n"], input=block.text.encode(), check=True, timeout=10)


@pytest.mark.parametrize(
    "page", ["README.md", "docs/getting-started.md", "docs/api.md", "docs/own-model.md", "docs/ellipse.md"]
)
def test_examples_run(root: Path, demo: Demo, blocks: Callable[[Path], list[Block]], page: str) -> None:
    """Blocks marked `run` work against the demonstration; what is marked `answer` has the members that came."""
    found = blocks(root / page)
    ran = 0
    for block, follower in zip(found, [*found[1:], None], strict=True):
        if block.note != "run":
            continue
        told = _run(demo, block)
        ran += 1
        if follower is not None and follower.note == "answer":
            shape, expected = _shape(json.loads(told)), _shape(json.loads(follower.text))
            assert shape == expected, f"{follower.place}: {told[:2000]}"
    assert ran


def _run(demo: Demo, block: Block) -> str:
    command = [_BASH, "-euo", "pipefail", "-c"] if block.language == "sh" else [sys.executable, "-c"]
    command.append(demo.here(block.text))
    ended = subprocess.run(command, cwd=demo.folder, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, f"{block.place}: {ended.stdout}{ended.stderr}"
    return ended.stdout


def _shape(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Members and types, without the values; of a list the first element's."""
    if isinstance(value, dict):
        return {name: _shape(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_shape(value[0])] if value else []
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def test_every_status_is_documented(root: Path) -> None:
    """docs/api.md has each status that the service may answer with, those of the connection included, and no other."""
    text = (root / "docs/api.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d, ]+) \|", text, re.MULTILINE)
    told = {int(status) for row in rows for status in row.split(", ")}
    between_us = {409}
    assert told == (BY_STATUS.keys() | {408, 431}) - between_us


def test_extras(root: Path) -> None:
    """Extras that documents speak of are those of pyproject.toml."""
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for path in _documents(root):
        assert set(re.findall(r"extra `(\w+)`", path.read_text(encoding="utf-8"))) <= extras.keys(), path.name
