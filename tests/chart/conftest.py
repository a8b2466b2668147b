"""Rendering the chart: values in, objects out."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from pathlib import Path

_HELM_S = 60.0
_SECRET_KEYS = {"accessKeyId": "key", "secretAccessKey": "secret"}


@dataclass(frozen=True)
class Chart:
    """The chart and the helm that renders it."""

    helm: str
    folder: Path

    def run(self, *words: str, values: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
        """One helm command; values go in by standard input."""
        return subprocess.run(
            [self.helm, *words, "--values", "-"],
            input=yaml.safe_dump(values or {}),
            capture_output=True,
            text=True,
            timeout=_HELM_S,
            check=False,
        )

    def render(self, **values: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - any value of the chart
        """The objects of a release `loc` in the namespace `ns`; S3 keys are given unless `storage` is."""
        done = self.run(
            *("template", "loc", str(self.folder), "--namespace", "ns", "--kube-version", "1.34"),
            values={"storage": {"s3": _SECRET_KEYS}} | values,
        )
        assert done.returncode == 0, done.stderr
        return [one for one in yaml.safe_load_all(done.stdout) if one]

    def one(self, kind: str, **values: Any) -> dict[str, Any]:  # noqa: ANN401 - of a conftest.py, which cannot be imported
        """The only object of a kind."""
        (found,) = [one for one in self.render(**values) if one["kind"] == kind]
        return found

    def refusal(self, **values: Any) -> str:  # noqa: ANN401 - of a conftest.py, which cannot be imported
        """What helm says about values that it refuses."""
        done = self.run(
            *("template", "loc", str(self.folder), "--kube-version", "1.34"),
            values={"storage": {"s3": _SECRET_KEYS}} | values,
        )
        assert done.returncode, "the values were accepted"
        return done.stderr


@pytest.fixture(scope="session")
def chart(pytestconfig: pytest.Config) -> Chart:
    """The chart; without helm the tests are skipped, or fail where CI=true."""
    helm = shutil.which("helm")
    if helm is None and os.environ.get("CI") == "true":
        pytest.fail("helm is not on the PATH")
    if helm is None:
        pytest.skip("helm is not on the PATH")
    return Chart(helm, pytestconfig.rootpath / "charts" / "heimdall")
