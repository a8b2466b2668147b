"""Log lines as JSON objects, one a line, on standard error.

What belongs here: their form, and putting it in place of what other packages set up. What does not: what is logged;
never are payloads.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

import orjson

from oip import log_fields

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
"""What every record has; whatever else is there came with `extra=`."""

_SHOW_SECRETS = ("botocore", "httpcore", "urllib3")
"""Loggers that write requests down at DEBUG, headers included: with S3 that is the session's token."""


class JsonFormatter(logging.Formatter):
    """`time`, `level`, `logger`, `message`, the fields of process and request, the record's own, and the traceback.

    A traceback holds the words of its errors: nobody puts a payload there.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        members = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **log_fields.current(),
            **{key: value for key, value in vars(record).items() if key not in _OWN},
        }
        if record.exc_info:
            members["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(members, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def configure_logging(level: str = "INFO") -> None:
    """Send every logger's lines from `level` on to standard error, as JSON; a second call changes nothing.

    The SDK sets up its own loggers only where none of them has a handler, and so leaves them alone afterwards.
    """
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root.addHandler(handler)
    root.setLevel(level)
    logging.getLogger("kserve.trace").setLevel(logging.WARNING)  # two lines for each scrape of /metrics
    for name in _SHOW_SECRETS:
        logging.getLogger(name).setLevel(max(logging.INFO, root.level))
