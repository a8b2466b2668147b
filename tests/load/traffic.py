"""What is sent: requests in four forms, numbered captures of which some are popular and others never come again.

What belongs here: bodies and the draw of who sends what, as pure functions of a seed. What does not: when anything is
sent, and sending it.

A capture is one of a few simulated ones whose last samples are replaced by its number, so that any number of captures
take no memory and each has a cache key of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
import orjson

from oip.codec import encode_request
from oip.messages import InferRequest, Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

INFER = "/v2/models/localization/infer"
PREDICT = "/api/v1/inference/predict"
JSON_SIZE = "Inference-Header-Content-Length"
NUMBERS = 1 << 22
"""How many captures can be told apart: two INT16 codes of 11 bits each, faint beside a signal of 15 bits."""

_JSON_STEP = 1e-8
"""A capture's number times this is its last FP32 sample: at most 0.042 of full scale."""


class Form(StrEnum):
    """How a client sends its captures."""

    FP32 = "fp32"
    """V2, binary FP32."""
    INT16 = "int16"
    """V2, binary INT16."""
    JSON = "json"
    """V2, JSON in and out."""
    REST = "rest"
    """The web front end's API."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Who sends what.

    Attributes:
        shares: Form → its share of the requests.
        fresh: Share of requests whose capture comes only once, as live samples do.
        popular: How many captures the others choose from; the k-th with a probability proportional to 1/k (Zipf).
        batch: Captures in one request, all but the last of which are always the same; above 1 for binary forms only.
        cache: Whether answers may come from the cache.
        deadline_ms: What a client says it is willing to wait; None says nothing.
    """

    shares: Mapping[str, float]
    fresh: float = 0.2
    popular: int = 1000
    batch: int = 1
    cache: bool = True
    deadline_ms: int | None = None


MIXED = Traffic(shares={Form.FP32: 0.4, Form.INT16: 0.4, Form.JSON: 0.1, Form.REST: 0.1})
"""Mostly receivers, which send binary, and some people and browsers. No source: nobody has measured Heimdall's."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, ready to be sent."""

    form: str
    capture: int
    path: str
    body: bytes
    headers: Mapping[str, str]


class Bodies:
    """The requests that some traffic is made of; making them takes a tenth of a second.

    Args:
        traffic: Who sends what.
        captures: FP32 [K,R,N,2], at least one, none of whose answers is doubtful (such answers are not cached).
    """

    def __init__(self, traffic: Traffic, captures: NDArray[np.float32]) -> None:
        self.traffic = traffic
        self._templates = {form: [_template(form, one, traffic) for one in captures] for form in traffic.shares}

    def request(self, form: str, capture: int) -> Request:
        """The request for a capture in a form of the traffic's."""
        templates = self._templates[form]
        return templates[capture % len(templates)].request(capture)


class Draw:
    """An endless sequence of requests, the same for the same seed.

    Args:
        bodies: Of the traffic.
        seed: Sequences of different seeds share the popular captures and hardly any others.
    """

    def __init__(self, bodies: Bodies, seed: int) -> None:
        traffic = bodies.traffic
        self._bodies = bodies
        self._fresh, self._popular = traffic.fresh, traffic.popular
        self._random = np.random.default_rng(seed)
        self._forms = list(traffic.shares)
        self._form_ends = np.cumsum(list(traffic.shares.values())) / sum(traffic.shares.values())
        popularity = np.cumsum(1.0 / np.arange(1, traffic.popular + 1))
        self._popularity_ends = popularity / popularity[-1]
        self._next_fresh = int(self._random.integers(NUMBERS))

    def __iter__(self) -> Draw:
        """Itself."""
        return self

    def __next__(self) -> Request:
        form = self._forms[_chosen(self._form_ends, self._random.random())]
        return self._bodies.request(form, self._capture())

    def _capture(self) -> int:
        if self._random.random() < self._fresh:
            self._next_fresh += 1
            return self._popular + self._next_fresh % (NUMBERS - self._popular)
        return _chosen(self._popularity_ends, self._random.random())


def _chosen(ends: NDArray[np.float64], uniform: float) -> int:
    return min(int(np.searchsorted(ends, uniform, side="right")), len(ends) - 1)


@dataclass(frozen=True, slots=True)
class _Template:
    """A request without its capture's number."""

    form: str
    path: str
    head: bytes
    foot: bytes
    headers: Mapping[str, str]

    def request(self, capture: int) -> Request:
        body = b"".join((self.head, _number(self.form, capture), self.foot))
        return Request(self.form, capture, self.path, body, self.headers)


def _number(form: str, capture: int) -> bytes:
    """A capture's number as the last sample (INT16: the last two) of its form."""
    if form == Form.INT16:
        return np.array([capture % 2048, capture // 2048], np.dtype("<i2")).tobytes()
    if form == Form.FP32:
        return np.array(capture * _JSON_STEP, np.dtype("<f4")).tobytes()
    return b"%.9f" % (capture * _JSON_STEP)


def _template(form: str, capture: NDArray[np.float32], traffic: Traffic) -> _Template:
    headers = {} if traffic.deadline_ms is None else {"x-request-timeout-ms": str(traffic.deadline_ms)}
    if form in {Form.FP32, Form.INT16}:
        return _binary(form, capture, traffic, headers)
    if traffic.batch != 1:
        raise ValueError(f"a batch of {traffic.batch} in the form {form}: batches are for binary forms")
    text = _json_text(form, capture, traffic)
    start = text.rindex(b",", 0, text.index(b"]]]" if form == Form.REST else b"]}")) + 1
    end = text.index(b"]", start)
    path = PREDICT if form == Form.REST else INFER
    return _Template(form, path, text[:start], text[end:], {**headers, "Content-Type": "application/json"})


def _binary(form: str, capture: NDArray[np.float32], traffic: Traffic, headers: Mapping[str, str]) -> _Template:
    iq = np.repeat(capture[None], traffic.batch, axis=0)
    if form == Form.INT16:
        iq = np.clip(np.round(iq * 32768.0), -32768, 32767).astype(np.int16)
    asked = InferRequest((Tensor("iq", iq),), parameters={"cache": traffic.cache}, binary_output=True)
    encoded = encode_request(asked, binary=True)
    headers = {**headers, "Content-Type": "application/octet-stream", JSON_SIZE: str(encoded.json_size)}
    return _Template(form, INFER, encoded.body[:-4], b"", headers)


def _json_text(form: str, capture: NDArray[np.float32], traffic: Traffic) -> bytes:
    if form == Form.REST:
        document = {"iq_data": capture, "cache_enabled": traffic.cache}
        return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    asked = InferRequest((Tensor("iq", capture[None]),), parameters={"cache": traffic.cache})
    return encode_request(asked, binary=False).body
