"""The probe set through a running service: every capture to each version, by the versioned URL of the transformer.

What belongs here: requests with their bounds and timeouts, repetitions, and reading answers. What does not: what the
answers are worth (`probe_answers`).

Captures go as binary INT16 in batches, past the cache. Of an ellipse only the size depends on the confidence level,
by a factor that is one and the same for all captures of a version (its contract's table k(p)). So every capture is
asked for at one level, and the first batch at all levels, which gives the factors as they are served.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import numpy as np

from oip.codec import decode_response, encode_request
from oip.errors import OipError
from oip.messages import InferRequest, InferResponse, RequestedOutput, Tensor
from rollout.evidence import EvidenceUnavailable, Probed
from rollout.probe_answers import BASE_LEVEL, ServedAnswers, compared
from rollout.probe_folder import Folder, open_folder
from rollout.probe_set import MANIFEST, ProbeSet, ProbeSetError, parse_chunk, parse_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rollout.arrays import F64, Int16
    from rollout.release import Release

MODEL_NAME = "localization"
JSON_SIZE_HEADER = "Inference-Header-Content-Length"

_BATCH = 8
_IN_FLIGHT = 4
_ATTEMPTS = 3
_PAUSE_S = 1.0
_OK, _NOT_FOUND = 200, 404
_REPEATED = frozenset({429, 502, 503, 504})
_FAILURES_BEFORE_GIVING_UP = 5
"""Batches that a version fails before the rest is not sent: one without an answer already keeps it from passing."""

_COLUMNS = {"position": (2,), "covariance": (2, 2), "ellipse": (3,), "confidence": ()}
_SAME_FACTOR = 1e-6
_WHOLE_ERROR = 200


@dataclass(frozen=True, slots=True)
class Version:
    """Whom to ask.

    Attributes:
        number: The model's version, as it stands in the URL.
        model_digest: What answers have to carry; empty where it is not known.
    """

    number: str
    model_digest: str = ""


class ProbeService:
    """A transformer that the probe set is sent to.

    Args:
        url: Such as http://localization.radio.svc.
        host: The Host header, where an ingress routes by it.
        model_name: In the URL.
        timeout_s: Of one request.
        deadline_s: Of one whole run.
        sleep: For tests.
        transport: For tests.
    """

    def __init__(
        self,
        url: str,
        *,
        host: str | None = None,
        model_name: str = MODEL_NAME,
        timeout_s: float = 30.0,
        deadline_s: float = 1_800.0,
        sleep: Callable[[float], None] = time.sleep,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._model_url = f"{url.rstrip('/')}/v2/models/{model_name}"
        self._headers = {"Host": host} if host else {}
        self._timeout_s = timeout_s
        self._deadline_s = deadline_s
        self._sleep = sleep
        self._transport = transport

    def answers(self, probe_set: ProbeSet, folder: Folder, versions: Sequence[Version]) -> tuple[ServedAnswers, ...]:
        """Send every capture to each version.

        Captures that a version refuses or fails are NaN in its answers.

        Raises:
            EvidenceUnavailable: The service cannot be reached, does not serve a version, or another one answers.
            ProbeSetError: A chunk is missing or damaged.
        """
        ends_s = time.monotonic() + self._deadline_s
        with (
            httpx.Client(timeout=self._timeout_s, headers=self._headers, transport=self._transport) as client,
            ThreadPoolExecutor(_IN_FLIGHT) as pool,
        ):
            conversations = [self._conversation(client, version, probe_set) for version in versions]
            for start, iq in _chunks(probe_set, folder):
                if time.monotonic() > ends_s:
                    raise EvidenceUnavailable(f"the probe set was not answered within {self._deadline_s:g} s")
                if start == 0:
                    _, end = next(_batches(probe_set.full_scale_dbm[: len(iq)]))
                    for conversation in conversations:
                        conversation.learn_scales(iq[:end])
                tasks = [
                    pool.submit(conversation.ask, start + first, iq[first:last])
                    for first, last in _batches(probe_set.full_scale_dbm[start : start + len(iq)])
                    for conversation in conversations
                ]
                for task in tasks:
                    task.result()
        return tuple(conversation.served() for conversation in conversations)

    def _conversation(self, client: httpx.Client, version: Version, probe_set: ProbeSet) -> _Conversation:
        return _Conversation(
            client, f"{self._model_url}/versions/{version.number}/infer", version, probe_set, self._sleep
        )


class ServiceProbe:
    """`Prober` for a service whose two versions are both live.

    Args:
        service: The transformer.
        probe_set_uri: A folder, or s3://BUCKET/PREFIX.
    """

    def __init__(self, service: ProbeService, probe_set_uri: str) -> None:
        self._service = service
        self._uri = probe_set_uri

    def probe(self, release: Release) -> Probed:
        """Send the probe set to champion and challenger; raises `EvidenceUnavailable`."""
        if release.champion is None:
            raise EvidenceUnavailable("there is no champion to compare with")
        versions = [Version(model.version, model.model_digest) for model in (release.champion, release.challenger)]
        try:
            folder = open_folder(self._uri)
            probe_set = parse_manifest(folder.read(MANIFEST))
            stable, canary = self._service.answers(probe_set, folder, versions)
        except ProbeSetError as error:
            raise EvidenceUnavailable(f"the probe set cannot be used: {error}") from error
        return compared(probe_set, stable, canary)


class _Conversation:
    """All requests to one version, and its answers so far; used by several threads, each for captures of its own."""

    def __init__(
        self, client: httpx.Client, url: str, version: Version, probe_set: ProbeSet, sleep: Callable[[float], None]
    ) -> None:
        self._client, self._url, self._version, self._sleep = client, url, version, sleep
        self._levels, self._full_scale_dbm = probe_set.levels, probe_set.full_scale_dbm
        self._scales = (np.nan,) * len(probe_set.levels)
        self._failures = 0
        self._found = {name: np.full((len(probe_set), *columns), np.nan) for name, columns in _COLUMNS.items()}

    def learn_scales(self, iq: Int16) -> None:
        """Ask for the first captures' ellipses at every level; a version that leaves one out is not asked further.

        Without the factors no ellipse can be judged, and answers whose ellipses hold nothing would look dishonest.
        """
        sizes: list[F64] = []
        for level in (BASE_LEVEL, *self._levels):
            answers = self._infer(iq, 0, level, ("ellipse",))
            if answers is None:
                self._failures = _FAILURES_BEFORE_GIVING_UP
                return
            sizes.append(answers["ellipse"][:, 0])
        major_m = np.array(sizes)
        factors = major_m[1:] / major_m[0]
        if not np.allclose(factors, factors[:, :1], rtol=_SAME_FACTOR, atol=0.0):
            raise EvidenceUnavailable("the ellipses of different confidence levels differ by more than their size")
        self._scales = tuple(factors[:, 0].tolist())

    def ask(self, start: int, iq: Int16) -> None:
        """Send a batch whose first capture is number `start`, and keep the answers."""
        if self._failures >= _FAILURES_BEFORE_GIVING_UP:
            return
        answers = self._infer(iq, start, BASE_LEVEL, tuple(_COLUMNS))
        if answers is None:
            self._failures += 1
            return
        for name, values in answers.items():
            self._found[name][start : start + len(iq)] = values

    def served(self) -> ServedAnswers:
        """Everything that was answered."""
        found = self._found
        return ServedAnswers(
            found["position"], found["covariance"], found["ellipse"], found["confidence"], self._scales
        )

    def _infer(self, iq: Int16, start: int, level: float, outputs: tuple[str, ...]) -> dict[str, F64] | None:
        request = InferRequest(
            inputs=(Tensor("iq", iq),),
            parameters={
                "confidence_level": level,
                "cache": False,
                "full_scale_dbm": float(self._full_scale_dbm[start]),
            },
            outputs=tuple(RequestedOutput(name) for name in outputs),
            binary_output=True,
        )
        response = self._post(request)
        if response is None:
            return None
        self._require_version(response)
        return {name: self._output(response, name, len(iq)) for name in outputs}

    def _post(self, request: InferRequest) -> InferResponse | None:
        """The answer; None when the version refuses the request or keeps failing."""
        encoded = encode_request(request)
        headers = {"Content-Type": "application/octet-stream", JSON_SIZE_HEADER: str(encoded.json_size)}
        for attempt in range(_ATTEMPTS):
            if attempt:
                self._sleep(_PAUSE_S * attempt)
            try:
                answer = self._client.post(self._url, content=encoded.body, headers=headers)
            except httpx.HTTPError as error:
                if attempt == _ATTEMPTS - 1:
                    raise EvidenceUnavailable(
                        f"{self._url} cannot be asked: {str(error) or type(error).__name__}"
                    ) from error
                continue
            if answer.status_code == _OK:
                return self._decoded(answer)
            if answer.status_code == _NOT_FOUND:
                raise EvidenceUnavailable(f"{self._url} answered 404: {answer.text[:_WHOLE_ERROR]}")
            if answer.status_code not in _REPEATED:
                break
        return None

    def _decoded(self, answer: httpx.Response) -> InferResponse:
        size = answer.headers.get(JSON_SIZE_HEADER)
        try:
            return decode_response(answer.content, None if size is None else int(size))
        except (OipError, ValueError) as error:
            raise EvidenceUnavailable(f"{self._url} does not speak V2: {error}") from error

    def _require_version(self, response: InferResponse) -> None:
        digest = response.parameters.get("model_digest", "")
        wrong = self._version.model_digest and digest != self._version.model_digest
        if wrong or response.model_version != self._version.number:
            raise EvidenceUnavailable(
                f"version {self._version.number} ({self._version.model_digest or 'any digest'}) was asked, and "
                f"version {response.model_version} ({digest}) answered"
            )

    def _output(self, response: InferResponse, name: str, captures: int) -> F64:
        try:
            array = response.output(name).array
        except KeyError as error:
            raise EvidenceUnavailable(f"{self._url} gave no output '{name}'") from error
        expected = (captures, *_COLUMNS[name])
        if array.shape != expected:
            raise EvidenceUnavailable(f"{self._url} gave '{name}' {list(array.shape)} instead of {list(expected)}")
        return np.asarray(array, dtype=np.float64)


def _chunks(probe_set: ProbeSet, folder: Folder) -> Iterator[tuple[int, Int16]]:
    """Each chunk's samples with the number of its first capture."""
    start = 0
    for chunk in probe_set.chunks:
        yield start, parse_chunk(folder.read(chunk.file), chunk, probe_set)
        start += chunk.captures


def _batches(full_scale_dbm: F64) -> Iterator[tuple[int, int]]:
    """First and last+1 of each batch: a request has one full scale, so that captures of one are sent together."""
    first = 0
    for last in range(1, len(full_scale_dbm) + 1):
        ends = last == len(full_scale_dbm) or last - first == _BATCH
        if ends or full_scale_dbm[last] != full_scale_dbm[first]:
            yield first, last
            first = last
