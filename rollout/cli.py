"""The console command `heimdall`: what every command needs, and what its exit code means.

What belongs here: reading the command line, choosing the command, and the one place where errors become exit codes.
What does not: what a command does (`commands`).
"""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from rollout.arguments import parse
from rollout.commands import run
from rollout.errors import DeniedError, RefusedError, RolloutError, UsageError
from rollout.evidence import EvidenceUnavailable
from rollout.exit_codes import FAILURE, INCONCLUSIVE, INTERRUPTED, REFUSED, USAGE
from rollout.release import ReleaseError
from rollout.terminal import JsonOutput, TerminalOutput

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; its exit code is described by `heimdall --help`."""
    arguments = parse(sys.argv[1:] if words is None else words)
    output = JsonOutput() if arguments.json else TerminalOutput()
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        return run(arguments, output)
    except (RefusedError, DeniedError) as error:
        output.failed(f"refused: {error}")
        return REFUSED
    except UsageError as error:
        output.failed(str(error))
        return USAGE
    except EvidenceUnavailable as error:
        output.failed(f"inconclusive: {error}")
        return INCONCLUSIVE
    except (RolloutError, ReleaseError) as error:
        output.failed(str(error))
        return FAILURE
    except KeyboardInterrupt:
        output.failed("interrupted: the traffic stays where it is; the same command takes the release up again")
        return INTERRUPTED


def _interrupted(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - signal's interface
    """Kubernetes ends a pod by SIGTERM: the lease is given back as after Ctrl-C."""
    raise KeyboardInterrupt
