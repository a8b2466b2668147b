"""Writes the reference pages that repeat what stands elsewhere: `docs/settings.md` and `docs/values.md`.

    python tests/docs/reference_pages.py

A test compares the pages with what this program would write.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import predictor.settings
import transformer.settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

ROOT = Path(__file__).parents[2]

SETTINGS = """# Settings of the processes

Given on the command line as `--NAME VALUE` or `--NAME=VALUE`, or, where there is a variable, by the environment; the
command line wins. In the chart: `predictor.extraArgs` and `transformer.extraArgs` ([values.md](values.md)). Wrong
values end the process with one line that names all of them. The SDK's own options are taken too; `--help` lists them.

This page is written by `tests/docs/reference_pages.py` from the settings themselves.
"""

VALUES = """# Values of the chart

Every value of `charts/heimdall` with its default. A name that is not here is refused by `values.schema.json`.
[kubernetes.md](kubernetes.md) says how they are used.

This page is written by `tests/docs/reference_pages.py` from `charts/heimdall/values.yaml`.
"""


def pages() -> dict[Path, str]:
    """Every page that this program writes, with its text."""
    components = [("Predictor", predictor.settings), ("Transformer", transformer.settings)]
    return {
        ROOT / "docs/settings.md": SETTINGS + "".join(f"\n## {name}\n\n{_settings(one)}" for name, one in components),
        ROOT / "docs/values.md": VALUES + "\n" + _values((ROOT / "charts/heimdall/values.yaml").read_text()),
    }


def _settings(module: ModuleType) -> str:
    meanings = _meanings(module.Settings)
    rows = ["| setting | default | variable | meaning |", "| --- | --- | --- | --- |"]
    for field in fields(module.Settings):
        variable = module._ENVIRONMENT.get(field.name)  # noqa: SLF001 - to be documented, not used
        default = "must be given" if field.default is MISSING else f"`{_shown(field.default)}`"
        rows.append(f"| `{field.name}` | {default} | {f'`{variable}`' if variable else ''} | {meanings[field.name]} |")
    return "\n".join(rows) + "\n"


def _meanings(settings: type) -> dict[str, str]:
    """The string below each field of a class."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(settings))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            assert isinstance(text.value, ast.Constant)
            found[field.target.id] = " ".join(inspect.cleandoc(str(text.value.value)).split()).replace("|", "\\|")
    return found


def _shown(default: object) -> str:
    if isinstance(default, tuple):
        return ",".join(map(str, default)) or '""'
    return '""' if default == "" else str(default)


def _values(text: str) -> str:
    lines = text.splitlines()
    alone, groups = [], []
    for key, value in yaml.compose(text).value:
        rows = list(_rows(lines, key, value, key.value))
        if rows[0].startswith(f"| `{key.value}` |"):
            alone += rows
        else:
            remark = f"{_comment(lines, key)}\n\n".lstrip()
            groups.append(f"## {key.value}\n\n{remark}" + "\n".join(_HEAD + rows) + "\n")
    return "\n".join(["\n".join(_HEAD + alone) + "\n", *groups])


_HEAD = ["| value | default | meaning |", "| --- | --- | --- |"]


def _rows(lines: list[str], key: yaml.Node, value: yaml.Node, path: str, group: str = "") -> Iterator[str]:
    """A row for each value that is no group; a group's remark stands in front of its first member's."""
    if isinstance(value, yaml.MappingNode) and not value.flow_style and value.value:
        remark = _comment(lines, key) if "." in path else ""
        for inner_key, inner in value.value:
            yield from _rows(lines, inner_key, inner, f"{path}.{inner_key.value}", remark)
            remark = ""
        return
    default = " ".join(lines[value.start_mark.line][value.start_mark.column :].split())
    yield f"| `{path}` | `{default}` | {' '.join(filter(None, (group, _comment(lines, key))))} |"


def _comment(lines: list[str], key: Any) -> str:  # noqa: ANN401 - a node of pyyaml, which ships no types for it
    """The lines of remark right above a key, as one."""
    above = []
    for line in reversed(lines[: key.start_mark.line]):
        if not re.match(r"\s*# ?", line):
            break
        above.append(re.sub(r"^\s*# ?", "", line))
    return " ".join(reversed(above)).replace("|", "\\|")


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
