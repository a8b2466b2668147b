from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import logging
from oip.json_log import configure_logging
configure_logging("INFO")
configure_logging("DEBUG")
logger = logging.getLogger("a.b")
logger.debug("not shown")
logger.info("version %s", 3, extra={"request_id": "r", "digest": b"x"})
logging.getLogger("kserve.trace").info("not shown")
try:
    1 / 0
except ZeroDivisionError:
    logger.exception("failed")
"""


def test_lines() -> None:
    """One JSON object a line on standard error, with extra fields and traceback; the first call decides."""
    told = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60)
    first, second = map(json.loads, told.stderr.splitlines())
    assert first.pop("time").endswith("+00:00")
    assert first == {"level": "INFO", "logger": "a.b", "message": "version 3", "request_id": "r", "digest": "b'x'"}
    assert "ZeroDivisionError" in second["traceback"]


def test_requests_with_their_headers_are_not_written_down() -> None:
    """Libraries that log headers, and so keys, are kept from it; everybody else may log at the level asked for."""
    script = """
import logging
from oip.json_log import configure_logging
configure_logging("DEBUG")
logging.getLogger("botocore.endpoint").debug("X-Amz-Security-Token: secret")
logging.getLogger("botocore").warning("shown")
logging.getLogger("a").debug("shown too")
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert [json.loads(line)["message"] for line in told.stderr.splitlines()] == ["shown", "shown too"]
