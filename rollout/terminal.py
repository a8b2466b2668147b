"""What a run shows while it goes on, and at its end: for people, or as lines of JSON.

What belongs here: words, colours and tables of the terminal. What does not: the report with its plots (`report`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rollout.release import Stage
from rollout.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.status import Status

    from rollout.release import Event, Release
    from rollout.verdict import Verdict

_STYLES = {
    Outcome.PASS: "green",
    Outcome.FAIL: "bold red",
    Outcome.INCONCLUSIVE: "yellow",
    Outcome.ERROR: "bold magenta",
}
_STAGES = {
    Stage.PROMOTED: "bold green",
    Stage.ROLLED_BACK: "bold red",
    Stage.ROLLING_BACK: "red",
    Stage.REFUSED: "bold red",
}


class Output(Protocol):
    """Whatever a command says; also `steps.Progress`."""

    def happened(self, event: Event) -> None:
        """The release has gone on."""
        ...

    def judged(self, release: Release, verdict: Verdict) -> None:
        """The evidence was looked at."""
        ...

    def waiting(self, release: Release, sentence: str) -> None:
        """Nothing is to be done for the moment."""
        ...

    def warned(self, sentence: str) -> None:
        """Something went wrong that does not end the command."""
        ...

    def noted(self, sentence: str) -> None:
        """Something that is worth knowing."""
        ...

    def failed(self, sentence: str) -> None:
        """Something went wrong that ends the command."""
        ...

    def result(self, document: Mapping[str, Any], lines: Iterable[str]) -> None:
        """What the command was asked for, as members or as lines."""
        ...

    def table(self, document: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
        """Several things of one kind; people see these columns."""
        ...


@dataclass
class JsonOutput:
    """One JSON object a line, its member `type` says what it is; the last is the result."""

    console: Console = field(default_factory=lambda: Console(soft_wrap=True, highlight=False, markup=False))

    def happened(self, event: Event) -> None:
        """See `Output`."""
        self._line("event", asdict(event))

    def judged(self, release: Release, verdict: Verdict) -> None:
        """See `Output`."""
        self._line("verdict", {"release_id": release.release_id, "percent": release.percent} | asdict(verdict))

    def waiting(self, release: Release, sentence: str) -> None:
        """Programs do not watch."""

    def warned(self, sentence: str) -> None:
        """See `Output`."""
        self._line("warning", {"sentence": sentence})

    def noted(self, sentence: str) -> None:
        """See `Output`."""
        self._line("note", {"sentence": sentence})

    def failed(self, sentence: str) -> None:
        """See `Output`."""
        self._line("error", {"sentence": sentence})

    def result(self, document: Mapping[str, Any], lines: Iterable[str]) -> None:  # noqa: ARG002 - for people
        """See `Output`."""
        self._line("result", document)

    def table(self, document: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:  # noqa: ARG002 - for people
        """See `Output`."""
        self._line("result", {"items": list(document)})

    def _line(self, kind: str, members: Mapping[str, Any]) -> None:
        self.console.out(json.dumps({"type": kind} | dict(members), default=plain, ensure_ascii=False))


@dataclass
class TerminalOutput:
    """Lines as things happen, below them what is waited for."""

    console: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=True))
    _status: Status | None = None

    def happened(self, event: Event) -> None:
        """See `Output`."""
        self._quiet()
        share = "" if event.percent is None else f" {event.percent} %"
        line = Text(f"{event.at.astimezone():%H:%M:%S} ")
        line.append(f"{event.stage}{share}", style=_STAGES.get(event.stage, "bold"))
        self.console.print(line.append(f"  {event.sentence}"))

    def judged(self, release: Release, verdict: Verdict) -> None:
        """See `Output`."""
        self._quiet()
        title = f"{verdict.outcome.value} at {release.percent} %"
        table = Table(
            "signal", "says", "because", title=Text(title, style=_STYLES[verdict.outcome]), title_justify="left"
        )
        for reason in verdict.reasons:
            said = Text(reason.outcome.value, style=_STYLES[reason.outcome])
            table.add_row(reason.signal, said, Text(reason.sentence))
        self.console.print(table)
        for note in verdict.notes:
            self.console.print(Text(f"  {note}", style="dim"))

    def waiting(self, release: Release, sentence: str) -> None:
        """See `Output`."""
        share = "" if release.percent is None else f" at {release.percent} %"
        text = Text(f"{release.challenger}{share}: {sentence}")
        if self._status is None:
            self._status = self.console.status(text)
            self._status.start()
        self._status.update(text)

    def warned(self, sentence: str) -> None:
        """See `Output`."""
        self._quiet()
        self.console.print(Text(f"warning: {sentence}", style="yellow"))

    def noted(self, sentence: str) -> None:
        """See `Output`."""
        self._quiet()
        self.console.print(Text(sentence))

    def failed(self, sentence: str) -> None:
        """See `Output`."""
        self._quiet()
        self.console.print(Text(sentence, style="bold red"))

    def result(self, document: Mapping[str, Any], lines: Iterable[str]) -> None:  # noqa: ARG002 - for programs
        """See `Output`."""
        self._quiet()
        for line in lines:
            self.console.print(Text(line))

    def table(self, document: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
        """See `Output`."""
        table = Table(*columns)
        for one in document:
            table.add_row(*(Text(str(one[column])) for column in columns))
        self.console.print(table)

    def _quiet(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


def plain(value: object) -> str:
    """What JSON has no form for."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Enum):
        return str(value.value)
    return str(value)
