from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from oip.codec import decode_request, encode_response
from oip.messages import InferResponse, Tensor
from rollout import probe_run
from rollout.evidence import EvidenceUnavailable
from rollout.policy import Policy
from rollout.probe_answers import compared
from rollout.probe_evidence import unanswered_captures
from rollout.probe_folder import LocalFolder
from rollout.probe_run import ProbeService, ServiceProbe, Version
from rollout.probe_set import parse_manifest
from rollout.release import ModelVersion, Release, Stage
from rollout.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from oip.messages import InferRequest
    from rollout.probe_answers import ServedAnswers

CAPTURES, LEVELS = 25, (0.5, 0.95)
RADIUS = {0.5: 1.2, 0.95: 2.4}
JSON_SIZE = "Inference-Header-Content-Length"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """25 captures in chunks of 20 and 5; each holds its own number, and number 10 has another full scale."""
    chunks = []
    for number, (first, last) in enumerate([(0, 20), (20, CAPTURES)]):
        iq = np.broadcast_to(np.arange(first, last, dtype=np.int16)[:, None, None, None], (last - first, 2, 5, 2))
        file = io.BytesIO()
        np.savez(file, iq=iq)
        (tmp_path / f"{number}.npz").write_bytes(file.getvalue())
        sha256 = hashlib.sha256(file.getvalue()).hexdigest()
        chunks.append({"file": f"{number}.npz", "captures": last - first, "sha256": sha256})
    document = {
        "schema": "heimdall.probe-set/1",
        "origin": "",
        "levels": LEVELS,
        "latitude": [45.0] * CAPTURES,
        "longitude": [7.0] * CAPTURES,
        "position": list(range(CAPTURES)),
        "full_scale_dbm": [-40.0 if number == 10 else -50.0 for number in range(CAPTURES)],
        "shape": [2, 5],
        "chunks": chunks,
    }
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    return tmp_path


class Transformer:
    """Answers every capture with a position that tells the capture's number."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, InferRequest]] = []
        self.statuses: list[int] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        """One V2 answer, or the next of `statuses`."""
        asked = decode_request(request.content, int(request.headers[JSON_SIZE]))
        self.asked.append((request.url.path, asked))
        if self.statuses and (status := self.statuses.pop(0)) != 200:
            return httpx.Response(status, text="no")
        outputs = self.outputs(asked)
        chosen = tuple(Tensor(one.name, outputs[one.name]) for one in asked.outputs)
        version = request.url.path.split("/")[5]
        response = InferResponse("localization", chosen, version, parameters={"model_digest": f"sha256:{version}"})
        encoded = encode_response(response, asked)
        return httpx.Response(200, content=encoded.body, headers={JSON_SIZE: str(encoded.json_size)})

    def outputs(self, asked: InferRequest) -> dict[str, np.ndarray]:
        """What the model says."""
        number = asked.inputs[0].array[:, 0, 0, 0].astype(np.float64)
        size = RADIUS[float(asked.parameters["confidence_level"])]
        ones = np.ones_like(number)
        return {
            "position": np.stack([45.0 + 1e-3 * number, 7.0 * ones], axis=-1),
            "covariance": np.tile(np.eye(2) * 1e6, (len(number), 1, 1)),
            "ellipse": np.stack([1e3 * size * ones, 1e3 * size * ones, 0.0 * ones], axis=-1),
            "confidence": (0.5 * ones).astype(np.float32),
        }


@pytest.fixture
def transformer() -> Transformer:
    """One that answers everything."""
    return Transformer()


def _answers(
    answer: Callable[[httpx.Request], httpx.Response], folder: Path, *versions: Version, deadline_s: float = 60.0
) -> tuple[ServedAnswers, ...]:
    transport = httpx.MockTransport(answer)
    service = ProbeService("http://service/", sleep=lambda _: None, transport=transport, deadline_s=deadline_s)
    probe_set = parse_manifest((folder / "manifest.json").read_bytes())
    return service.answers(probe_set, LocalFolder(folder), versions or (Version("4"),))


def test_every_capture_is_asked_once_and_in_its_place(transformer: Transformer, folder: Path) -> None:
    """Batches of at most eight, one full scale in each, past the cache; each answer lands at its capture."""
    (served,) = _answers(transformer.answer, folder)
    assert served.position_deg[:, 0] == pytest.approx(45.0 + 1e-3 * np.arange(CAPTURES))
    batches = [asked for _, asked in transformer.asked if len(asked.outputs) > 1]
    sent = [asked.inputs[0].array[:, 0, 0, 0].tolist() for asked in batches]
    assert sorted(np.concatenate(sent).tolist()) == list(range(CAPTURES))
    assert max(map(len, sent)) == 8
    assert {asked.inputs[0].datatype for asked in batches} == {"INT16"}
    assert {asked.parameters["cache"] for asked in batches} == {False}
    by_scale = {
        float(asked.parameters["full_scale_dbm"]): numbers for asked, numbers in zip(batches, sent, strict=True)
    }
    assert by_scale[-40.0] == [10]


def test_ellipse_sizes_are_those_served(transformer: Transformer, folder: Path) -> None:
    """The first batch is asked for at every level, which gives the factors of the others."""
    (served,) = _answers(transformer.answer, folder)
    assert served.scales == pytest.approx((0.5, 1.0))
    levels = [asked.parameters["confidence_level"] for _, asked in transformer.asked if len(asked.outputs) == 1]
    assert levels == [0.95, *LEVELS]


def test_versions_are_asked_by_their_urls(transformer: Transformer, folder: Path) -> None:
    """Both versions get all captures, each at its own address."""
    served = _answers(transformer.answer, folder, Version("3", "sha256:3"), Version("4", "sha256:4"))
    assert len(served) == 2
    paths = {path for path, _ in transformer.asked}
    assert paths == {f"/v2/models/localization/versions/{number}/infer" for number in "34"}


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_passes_is_asked_again(transformer: Transformer, folder: Path, status: int) -> None:
    """A server that is full or restarts for a moment costs no capture."""
    transformer.statuses = [status, status, 200, status]
    (served,) = _answers(transformer.answer, folder)
    assert np.isfinite(served.position_deg).all()


def test_a_refused_batch_is_unanswered(transformer: Transformer, folder: Path) -> None:
    """Captures that the version refuses are NaN; the others are not touched."""
    transformer.statuses = [200] * 3 + [400]
    (served,) = _answers(transformer.answer, folder)
    assert 0 < np.isnan(served.confidence).sum() <= 8
    assert np.isfinite(served.confidence).any()


def test_a_version_that_fails_everything_is_not_asked_for_long(folder: Path) -> None:
    """After the first request the rest is not sent; all captures count as unanswered."""
    asked = []

    def crashed(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(500)

    (served,) = _answers(crashed, folder)
    assert np.isnan(served.position_deg).all()
    assert np.isnan(served.scales).all()
    assert len(asked) == 1


@pytest.mark.parametrize("failed", range(1 + len(LEVELS)))
def test_without_the_ellipses_sizes_nothing_is_said(transformer: Transformer, folder: Path, failed: int) -> None:
    """One failure among the first requests is no evidence against the version, however well it answers afterwards."""
    transformer.statuses = [200] * failed + [500]
    served = _answers(transformer.answer, folder)[0]
    assert len(transformer.asked) == failed + 1
    probe_set = parse_manifest((folder / "manifest.json").read_bytes())
    (reason,) = Policy(probe_captures=CAPTURES).probe_test().judge(compared(probe_set, served, served).results)
    assert reason.outcome is Outcome.INCONCLUSIVE


def test_after_some_failed_batches_the_rest_is_not_sent(
    transformer: Transformer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that breaks in the middle costs a few batches, not all of a large probe set."""
    monkeypatch.setattr(probe_run, "_IN_FLIGHT", 1)
    transformer.statuses = [200] * 3 + [500] * 100
    _answers(transformer.answer, folder)
    assert len(transformer.asked) == 3 + 5


def _wrong(change: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[httpx.Request], httpx.Response]:
    class Wrong(Transformer):
        def outputs(self, asked: InferRequest) -> dict[str, np.ndarray]:
            found = super().outputs(asked)
            change(found)
            return found

    return Wrong().answer


def _unreachable(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (_unreachable, "cannot be asked: refused"),
        (lambda _: httpx.Response(404, text="no such version"), "404: no such version"),
        (lambda _: httpx.Response(200, content=b"<html>"), "does not speak V2"),
        (lambda _: httpx.Response(200, content=b"{}", headers={JSON_SIZE: "many"}), "does not speak V2"),
        (_wrong(lambda found: found.update(ellipse=found["ellipse"][:, :2])), r"gave 'ellipse' \[8, 2\]"),
        (
            _wrong(lambda found: found.update(ellipse=found["ellipse"] * np.random.default_rng().random((8, 1)))),
            "differ by more than their size",
        ),
    ],
    ids=["away", "unknown version", "no V2", "wrong size", "wrong shape", "other ellipses"],
)
def test_what_ends_a_run(answer: Callable[[httpx.Request], httpx.Response], says: str, folder: Path) -> None:
    """Nothing is said of a version that was not really asked."""
    with pytest.raises(EvidenceUnavailable, match=says):
        _answers(answer, folder)


def test_an_answer_without_an_output(folder: Path) -> None:
    """An answer that leaves out what was asked for is no answer."""

    class Forgetful(Transformer):
        def answer(self, request: httpx.Request) -> httpx.Response:
            asked = decode_request(request.content, int(request.headers[JSON_SIZE]))
            encoded = encode_response(InferResponse("localization", (), "4"), asked)
            return httpx.Response(200, content=encoded.body)

    with pytest.raises(EvidenceUnavailable, match="no output 'ellipse'"):
        _answers(Forgetful().answer, folder)


def test_another_version_must_not_answer(transformer: Transformer, folder: Path) -> None:
    """A digest other than the release's says that something else is live."""
    with pytest.raises(EvidenceUnavailable, match=r"version 4 \(sha256:x\) was asked"):
        _answers(transformer.answer, folder, Version("4", "sha256:x"))


def test_a_run_has_a_deadline(transformer: Transformer, folder: Path) -> None:
    """A service that answers too slowly ends the run."""
    with pytest.raises(EvidenceUnavailable, match="not answered within 0 s"):
        _answers(transformer.answer, folder, deadline_s=0.0)


def _release() -> Release:
    began, model = datetime(2026, 11, 23, tzinfo=UTC), ModelVersion("loc", "3", "s3://b/3", "sha256:3")
    challenger = replace(model, version="4", model_digest="sha256:4")
    return Release("r-1", "radio", "loc", challenger, model, Policy(), Stage.CANARY, 0, began, began)


def test_a_release_is_probed(transformer: Transformer, folder: Path) -> None:
    """Champion and challenger are compared on the same captures; the Host header is sent where it is needed."""
    hosts = set()

    def answer(request: httpx.Request) -> httpx.Response:
        hosts.add(request.headers["host"])
        return transformer.answer(request)

    service = ProbeService("http://service", host="loc.example.com", transport=httpx.MockTransport(answer))
    probed = ServiceProbe(service, str(folder)).probe(_release())
    assert probed.results.canary.error_m[:, 1] == pytest.approx(-111.1 * np.arange(CAPTURES), rel=1e-3)
    assert unanswered_captures(probed.results.stable) == 0
    assert (probed.disagreement.captures, probed.disagreement.median_m) == (CAPTURES, 0.0)
    assert hosts == {"loc.example.com"}


def test_what_cannot_be_probed(transformer: Transformer, folder: Path, tmp_path: Path) -> None:
    """No champion, or a damaged probe set: there is no evidence, and the reason is told."""
    service = ProbeService("http://service", transport=httpx.MockTransport(transformer.answer))
    with pytest.raises(EvidenceUnavailable, match="no champion"):
        ServiceProbe(service, str(folder)).probe(replace(_release(), champion=None))
    with pytest.raises(EvidenceUnavailable, match=r"manifest\.json: No such file"):
        ServiceProbe(service, str(tmp_path / "other")).probe(_release())
    (folder / "1.npz").write_bytes(b"damaged")
    with pytest.raises(EvidenceUnavailable, match="SHA-256"):
        ServiceProbe(service, str(folder)).probe(_release())
