"""`python -m rollout.coverage_watch`: the probe set through the live service again and again, shown to Prometheus.

What belongs here: the loop, and the answers to scrapes. What does not: the figures (`coverage`) and the requests
(`probe_run`).

Whether ellipses hold what they promise can be seen with known transmitters only. A release judges that before a version
gets all of the traffic; this goes on asking afterwards, because receivers change too. It asks the version that is
served, by the transformer's own metadata, past the cache.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import httpx
import numpy as np

from oip.errors import OipError
from oip.json_log import configure_logging
from oip.metadata import decode_model_metadata
from rollout.coverage import Coverage, Runs, exposition, measured
from rollout.evidence import EvidenceUnavailable
from rollout.probe_folder import open_folder
from rollout.probe_run import MODEL_NAME, ProbeService, Version
from rollout.probe_set import MANIFEST, ProbeSetError, parse_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EVERY_S = 3600.0
"""Between two runs: 2500 captures are 40 s of one core, about a hundredth of it at this pace."""

_UNANSWERED = 0.01
"""Share of the captures above which a run says nothing. They count as not held, so that a service which fails for a
minute would look as if its ellipses had become dishonest."""

_ASK_S = 10.0
_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

logger = logging.getLogger(__name__)


class Watch:
    """Runs the probe set and keeps the figures.

    Args:
        run: Measures once; raises `EvidenceUnavailable` or `ProbeSetError`. Whatever else it raises goes into the log
            with its traceback.
    """

    def __init__(self, run: Callable[[], Coverage]) -> None:
        self._run = run
        self._runs = Runs()

    def once(self) -> None:
        """Measure; after a failure, foreseen or not, the last figures stay, and their age tells."""
        try:
            coverage = self._run()
        except (EvidenceUnavailable, ProbeSetError) as error:
            logger.warning("the probe set was not answered: %s", error)
            self._failed()
            return
        except Exception:
            logger.exception("the probe set was not answered")
            self._failed()
            return
        succeeded = self._runs.succeeded + 1
        self._runs = replace(self._runs, succeeded=succeeded, last_s=time.time(), coverage=coverage)

    def _failed(self) -> None:
        self._runs = replace(self._runs, failed=self._runs.failed + 1)

    def text(self) -> str:
        """What a scrape gets."""
        return exposition(self._runs)


def measure(url: str, host: str | None, probe_set_uri: str, model_name: str = MODEL_NAME) -> Coverage:
    """One run against the version that is served now.

    Args:
        url: Of the transformer.
        host: The Host header, where an ingress routes by it.
        probe_set_uri: A folder, or s3://BUCKET/PREFIX.
        model_name: In the URLs of the service.

    Raises:
        EvidenceUnavailable: The service cannot be reached, changed its version meanwhile, or left captures unanswered.
        ProbeSetError: The probe set cannot be used.
    """
    folder = open_folder(probe_set_uri)
    probe_set = parse_manifest(folder.read(MANIFEST))
    version = _served(f"{url.rstrip('/')}/v2/models/{model_name}", host)
    (served,) = ProbeService(url, host=host, model_name=model_name).answers(probe_set, folder, [version])
    unanswered = int(np.isnan(served.position_deg).any(axis=1).sum())
    if unanswered > _UNANSWERED * len(probe_set):
        raise EvidenceUnavailable(f"version {version.number} left {unanswered} of {len(probe_set)} captures unanswered")
    return measured(version.number, probe_set, served)


def _served(address: str, host: str | None) -> Version:
    try:
        answer = httpx.get(address, headers={"Host": host} if host else {}, timeout=_ASK_S)
        metadata = decode_model_metadata(answer.raise_for_status().content)
    except (httpx.HTTPError, OipError) as error:
        raise EvidenceUnavailable(f"{address}: {str(error) or type(error).__name__}") from error
    if not metadata.versions:
        raise EvidenceUnavailable(f"{address} names no version")
    return Version(metadata.versions[0], str(metadata.parameters.get("model_digest", "")))


class Exporter(ThreadingHTTPServer):
    """Answers `GET /metrics`.

    Args:
        port: TCP port.
        text: Makes the answer.
    """

    daemon_threads = True

    def __init__(self, port: int, text: Callable[[], str]) -> None:
        super().__init__(("", port), _Handler)
        self.text = text


class _Handler(BaseHTTPRequestHandler):
    server: Exporter
    timeout = _ASK_S

    def do_GET(self) -> None:  # the name that http.server asks for
        """Answer a scrape."""
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404)
            return
        body = self.server.text().encode()
        self.send_response(200)
        self.send_header("Content-Type", _CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing of a scrape."""


def main(words: Sequence[str] | None = None) -> None:
    """Run until a signal."""
    configure_logging()
    arguments = _parser().parse_args(words)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    watch = Watch(lambda: measure(arguments.url, arguments.host or None, arguments.probe_set, arguments.model_name))
    with Exporter(arguments.port, watch.text) as exporter:
        threading.Thread(target=exporter.serve_forever, daemon=True).start()
        # In a thread of its own, because a run may take minutes, and the end must not wait for it.
        threading.Thread(target=_again_and_again, args=(watch, arguments.every_s, ended), daemon=True).start()
        ended.wait()
        exporter.shutdown()


def _again_and_again(watch: Watch, every_s: float, ended: threading.Event) -> None:
    while not ended.is_set():
        watch.once()
        ended.wait(every_s)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rollout.coverage_watch", description=(__doc__ or "").split("\n")[0]
    )
    options = (
        ("--url", "HEIMDALL_SERVICE_URL", "", "URL of the transformer"),
        ("--host", "HEIMDALL_SERVICE_HOST", "", "Host header for --url"),
        ("--probe-set", "HEIMDALL_PROBE_SET", "", "folder or s3:// prefix of the probe set"),
        ("--model-name", "HEIMDALL_MODEL_NAME", MODEL_NAME, "the model's name in the URLs"),
    )
    for name, variable, fallback, text in options:
        default = os.environ.get(variable) or fallback
        needed = not default and name != "--host"
        parser.add_argument(name, default=default, required=needed, help=f"{text}; also from {variable}")
    parser.add_argument("--every-s", type=float, default=EVERY_S, help="seconds between two runs; default %(default)g")
    parser.add_argument("--port", type=int, default=8080, help="of /metrics; default %(default)d")
    return parser


if __name__ == "__main__":
    main()
