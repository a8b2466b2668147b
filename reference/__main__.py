"""`python -m reference`: make models, evaluate a service, or show everything on this machine."""

from __future__ import annotations

import signal
import sys

from reference.commands import parser
from reference.errors import ReferenceFailed


def main(argv: list[str]) -> int:
    """Run one command; returns the exit code."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))  # so that the demonstration ends its servers
    arguments = parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except ReferenceFailed as error:
        print(f"reference: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
