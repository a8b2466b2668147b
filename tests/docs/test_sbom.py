from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)", re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def _bill(root: Path, component: str, folder: Path) -> dict[str, Any]:
    """What `make sbom` writes for a component."""
    made = folder / f"sbom-{component}.json"
    options = ["--pyproject", "pyproject.toml", "--short-PURLs", "--output-reproducible", "--of", "JSON", "--validate"]
    command = [sys.executable, "-m", "cyclonedx_py", "requirements", f"requirements/{component}.txt", *options]
    subprocess.run([*command, "-o", str(made)], check=True, cwd=root, capture_output=True, timeout=60)
    return dict(json.loads(made.read_text()))


@pytest.mark.parametrize("component", ["predictor", "transformer", "rollout"])
def test_the_bill_names_every_pin(root: Path, tmp_path: Path, component: str) -> None:
    """Each pinned package is a component with its version, its package URL and the hashes that it is installed by."""
    bill = _bill(root, component, tmp_path)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    text = (root / f"requirements/{component}.txt").read_text()
    pins = dict(_PIN.findall(text))
    assert {one["name"]: one["version"] for one in bill["components"]} == pins
    assert all(one["purl"] == f"pkg:pypi/{one['name'].lower()}@{one['version']}" for one in bill["components"])
    assert {hash_["content"] for hash_ in _hashes(bill)} == set(_HASH.findall(text))


def _hashes(bill: dict[str, Any]) -> list[dict[str, str]]:
    references = [one for component in bill["components"] for one in component["externalReferences"]]
    return [hash_ for one in references for hash_ in one["hashes"]]
