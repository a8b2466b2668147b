from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rollout.evidence import Gathered

if TYPE_CHECKING:
    from rollout.evidence import Evidence


class _Witness:
    """Says what it was asked."""

    def look(self, release: Any, elapsed_s: float) -> Any:  # noqa: ANN401 - stands for any evidence
        return "look", release, elapsed_s

    def live(self, release: Any) -> Any:  # noqa: ANN401 - of a conftest.py, which cannot be imported
        return "live", release

    def probe(self, release: Any) -> Any:  # noqa: ANN401 - of a conftest.py, which cannot be imported
        return "probe", release


def test_each_question_goes_to_who_knows() -> None:
    """Counts come from one source and the probe set's answers from the other."""
    release: Any = object()
    gathered: Evidence = Gathered(_Witness(), _Witness())
    found: list[Any] = [gathered.look(release, 3.0), gathered.live(release), gathered.probe(release)]
    assert found == [("look", release, 3.0), ("live", release), ("probe", release)]
