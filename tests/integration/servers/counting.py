"""A process with the transformer's counters of calls, which counts what its standard input says.

Its argument is a port of 127.0.0.1. Each line is REVISION CODE SECONDS TIMES, and is answered by a line on standard
output once it is counted; the duration of a call is counted if its code is 200.
"""

from __future__ import annotations

import sys

from prometheus_client import Counter, Histogram, start_http_server

CALLS = Counter("transformer_upstream_requests", "Calls", ["arm", "revision", "code"])
SECONDS = Histogram(
    "transformer_upstream_settled_duration_seconds", "Durations", ["arm", "revision"], buckets=(0.01, 0.1, 1.0)
)


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


start_http_server(int(sys.argv[1]), addr="127.0.0.1")
_say("ready")
for line in sys.stdin:
    revision, code, seconds, times = line.split()
    CALLS.labels("canary", revision, code).inc(int(times))
    for _ in range(int(times) if code == "200" else 0):
        SECONDS.labels("canary", revision).observe(float(seconds))
    _say("counted")
