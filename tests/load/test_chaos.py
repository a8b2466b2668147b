"""How faults are judged, how they are made, and two of them in short; all of them: `make prove-chaos`."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import kernel
import orjson
import pytest
from chaos import FAULTS
from chaos_outcome import Phase, Promise, judge
from records import Record
from tcp_proxy import Disturbance, proxied

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

ONE = Record(intended_s=0.0, sent_s=0.0, done_s=0.1, form="fp32", capture=0, status=200, digest="a", model="m")
BEGIN_S, END_S = 10.0, 20.0
GOOD = tuple(dataclasses.replace(ONE, intended_s=at, sent_s=at, done_s=at + 0.1, capture=at) for at in range(0, 30, 2))


def _with(at_s: float, **changes: Any) -> list[Record]:  # noqa: ANN401 - any member of a record
    changed = dataclasses.replace(ONE, intended_s=at_s, sent_s=at_s, done_s=at_s + 0.1, **changes)
    return sorted([*GOOD, changed], key=lambda one: one.intended_s)


def _broken(promise: Promise, records: Sequence[Record]) -> tuple[str, ...]:
    return judge(promise, records, BEGIN_S, END_S).broken


NOTHING = Promise(text="")
REFUSALS = Promise(text="", statuses=frozenset({200, 503}))


def test_a_load_that_nothing_happened_to_keeps_every_promise() -> None:
    """Requests are counted in the phase that they belong to, and nothing is broken."""
    outcome = judge(NOTHING, GOOD, BEGIN_S, END_S)
    assert outcome.broken == ()
    assert [phase.requests for phase in (outcome.before, outcome.during, outcome.after)] == [5, 5, 5]
    assert outcome.recovery_s == 0.0


@pytest.mark.parametrize(
    ("promise", "records", "words"),
    [
        (NOTHING, _with(15.0, status=500, error="oops"), "500 oops"),
        (NOTHING, _with(15.0, status=0, error="reset"), "0 reset"),
        (REFUSALS, _with(15.0, status=503), "when to come again"),
        (REFUSALS, _with(5.0, status=503, retry_after=True), "before it"),
        (REFUSALS, _with(25.0, status=503, retry_after=True), "after it"),
        (NOTHING, _with(15.0, capture=0, digest="b"), "1 answers differ"),
        (Promise(text="", same_model=True), _with(15.0, model="n"), "2 models"),
        (Promise(text="", felt=True), GOOD, "nobody noticed"),
        (NOTHING, [one for one in GOOD if one.intended_s < END_S], "nothing was sent"),
        (NOTHING, [*GOOD[:8], dataclasses.replace(GOOD[8], done_s=GOOD[8].sent_s + 6.5), *GOOD[9:]], "later than 6 s"),
    ],
)
def test_what_breaks_a_promise(promise: Promise, records: Sequence[Record], words: str) -> None:
    """Each way of not keeping it is told, and alone."""
    (sentence,) = _broken(promise, records)
    assert words in sentence


def test_what_was_promised_is_allowed() -> None:
    """Refusals with a time, lost requests and another model are fine where that was said, and shortly after."""
    assert not _broken(REFUSALS, _with(15.0, status=503, retry_after=True))
    assert not _broken(REFUSALS, _with(21.0, status=503, retry_after=True))
    assert not _broken(Promise(text="", lost=True), _with(15.0, status=0))
    assert not _broken(NOTHING, _with(15.0, model="n"))
    felt = dataclasses.replace(REFUSALS, felt=True)
    assert not _broken(felt, _with(15.0, status=503, retry_after=True))


def test_recovery_ends_with_the_last_failure() -> None:
    """It is counted by the moment at which that request was meant to be sent."""
    outcome = judge(REFUSALS, _with(21.5, status=503, retry_after=True), BEGIN_S, END_S)
    assert outcome.recovery_s == pytest.approx(1.5)
    assert str(outcome.after) == "5/6 answered, 1 × 503"
    assert str(Phase.of([dataclasses.replace(ONE, status=0)])) == "0/1 answered, 1 lost"


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that says what it hears."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    guest, _ = listener.accept()
                except OSError:
                    return
                with guest, suppress(ConnectionError):
                    while chunk := guest.recv(1 << 16):
                        guest.sendall(chunk)

        thread = threading.Thread(target=serve)
        thread.start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def _say(port: int, words: bytes) -> bytes:
    """What comes back until it is as long as what was said, or the connection ends."""
    heard = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(words)
        with suppress(ConnectionError):
            while len(heard) < len(words) and (chunk := connection.recv(1 << 16)):
                heard += chunk
    return heard


def test_a_link_passes_everything_on_until_it_is_disturbed(echo: int) -> None:
    """Whole, late, cut off, reset, and somebody else's words; afterwards it is whole again."""
    words = bytes(range(256)) * 2000
    with proxied(echo) as proxy:
        assert _say(proxy.port, words) == words
        with proxy.disturbed(Disturbance(delay_s=0.1)):
            began_s = time.monotonic()
            assert _say(proxy.port, b"late") == b"late"
            assert time.monotonic() - began_s >= 0.2
        with proxy.disturbed(Disturbance(cut_after_bytes=1000)):
            assert _say(proxy.port, words) == words[:1000]
        with proxy.disturbed(Disturbance(reset=1.0)):
            assert _say(proxy.port, words) == b""
        with proxy.disturbed(Disturbance(garbage=b"nonsense")):
            assert _say(proxy.port, b"12345678") == b"nonsense"
        assert _say(proxy.port, words) == words


@pytest.mark.skipif(not kernel.Clock.library(), reason="needs libfaketime")
def test_a_clock_of_its_own_is_off_and_the_monotonic_one_is_not(tmp_path: Path) -> None:
    """A process sees its wall clock an hour ahead, then right again; its monotonic clock is the machine's."""
    clock = kernel.Clock(tmp_path / "clock")
    program = "import time\nfor _ in range(2):\n print(time.time(), time.monotonic(), flush=True); input()"
    command = [sys.executable, "-c", program]
    environ = {**os.environ, **clock.environ}
    with subprocess.Popen(
        command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for off_s, told in ((0, process.stdout.readline()), (3600, _after(clock, process.stdin, process.stdout))):
            wall_s, monotonic_s = map(float, told.split())
            assert wall_s - time.time() == pytest.approx(off_s, abs=30)
            assert monotonic_s == pytest.approx(time.monotonic(), abs=30)
        process.kill()


def _after(clock: kernel.Clock, stdin: Any, stdout: Any) -> str:  # noqa: ANN401 - a pipe
    clock.set(3600)
    time.sleep(2.2)  # see Clock.set
    stdin.write("\n")
    stdin.flush()
    return str(stdout.readline())


@pytest.mark.timeout(300)
@pytest.mark.skipif(not shutil.which("redis-server"), reason="needs the program redis-server")
def test_two_faults_in_short(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """A predictor that is killed and a Redis that stands still: nothing is lost or wrong, and refusals say when."""
    command = [sys.executable, "tests/load/chaos.py", "--out", str(tmp_path), "--seconds", "1", "--rate", "10"]
    done = subprocess.run(
        [*command, "predictor killed", "Redis stopped"],
        cwd=pytestconfig.rootpath,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = orjson.loads((tmp_path / "chaos.json").read_bytes())
    assert [one["fault"] for one in report["faults"]] == ["predictor killed", "Redis stopped"]
    for one in report["faults"]:
        assert one["outcome"]["during"]["requests"] > 0
        assert one["outcome"]["during"]["lost"] == one["outcome"]["after"]["lost"] == 0
    assert "| Redis stopped | No request fails. | yes |" in (tmp_path / "chaos.md").read_text()


def test_every_fault_says_what_is_promised() -> None:
    """Names are unique, and a promise is a sentence."""
    assert len(FAULTS) >= 20
    assert all(fault.promise.text.endswith(".") for fault in FAULTS.values())
    with_registry = [fault for fault in FAULTS.values() if fault.shape.registry]
    assert all(fault.promise.same_model and fault.promise.statuses == {200} for fault in with_registry)
