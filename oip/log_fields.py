"""What every log line says beside its message: who writes it, and for which request.

What belongs here: the fields and their scope. What does not: the line's form (`json_log`). A request's payload never is
a field.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from oip import tracing

if TYPE_CHECKING:
    from collections.abc import Mapping

_NONE: Mapping[str, str] = {}
_process: dict[str, str] = {}
_request: ContextVar[Mapping[str, str]] = ContextVar("fields of the request's log lines", default=_NONE)


def of_process(**fields: str) -> None:
    """From now on every line of this process has these fields, for example the version that is served."""
    _process.update(fields)


def of_request(**fields: str) -> None:
    """From now on the lines of this task have these fields: its request's id, the version that answers it.

    Every request has a task of its own, so that the fields end with it.
    """
    _request.set({**_request.get(), **fields})


def current() -> dict[str, str]:
    """The fields of a line that is written now; a request's own stand above the process's."""
    return {**_process, **_request.get(), **tracing.identity()}
