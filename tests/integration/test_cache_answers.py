"""Cached answers through the real servers: the same as fresh ones, shared by processes, never out of date."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
import redis

from oip.messages import InferRequest, Tensor
from transformer.described_model import MAX_AGE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from oip.messages import Array
    from reference.simulate import Captures

OUTPUTS = ("position", "covariance", "ellipse", "confidence")
PREDICT, BATCH = "/api/v1/inference/predict", "/api/v1/inference/predict/batch"


@pytest.fixture(scope="session")
def unseen() -> Callable[[Array], Array]:
    """Makes captures that no test has sent before: the first sample is another one, by a thousandth of full scale."""
    count = 0

    def change(iq: Array) -> Array:
        nonlocal count
        count += 1
        changed = iq.copy()
        changed[:, 0, 0, 0] += np.float32(count) * np.float32(1e-7)
        return changed

    return change


@pytest.fixture(scope="module")
def sound(transformer: Any, drawn: Captures) -> Array:  # noqa: ANN401 - of conftest.py
    """Captures [4,R,N,2] whose answers nothing is doubtful about, so that they are kept."""
    reasons = orjson.loads(transformer.infer(drawn.iq, cache=False).parameters.get("degraded", "null"))
    keep = [index for index in range(len(drawn)) if not reasons or not reasons[index]]
    return drawn.iq[keep[:4]]


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_v2_hits_are_the_misses_bit_for_bit(
    transformer: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    sound: Array,
    unseen: Callable[[Array], Array],
    *,
    binary: bool,
) -> None:
    """A hit has every number of the miss, and of an answer that never saw the cache."""
    iq = unseen(sound)
    miss, hit, fresh = (
        transformer.infer(iq, *OUTPUTS, "geojson", binary=binary, **parameters)
        for parameters in ({}, {}, {"cache": False})
    )
    assert [one.parameters["cached"] for one in (miss, hit, fresh)] == [
        orjson.dumps([known] * len(iq)).decode() for known in (False, True, False)
    ]
    for name in OUTPUTS:
        assert hit.output(name).array.tobytes() == miss.output(name).array.tobytes()
        assert fresh.output(name).array.tobytes() == miss.output(name).array.tobytes()
    assert hit.output("geojson").array.tolist() == miss.output("geojson").array.tolist()


def test_forms_share_their_answers(
    transformer: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    sound: Array,
    unseen: Callable[[Array], Array],
) -> None:
    """The same FP32 samples are one capture, whether they came in binary, as V2 JSON or by REST."""
    iq = unseen(sound[:1])
    first = transformer.infer(iq)
    again = transformer.infer(iq, binary=False)
    rest = _rest(transformer, iq)
    assert (first.parameters["cached"], again.parameters["cached"], rest["_cache_hit"]) == ("[false]", "[true]", True)
    latitude, longitude = first.output("position").array[0]
    assert rest["position"] == {"latitude": latitude, "longitude": longitude}


def test_rest_hits(transformer: Any, sound: Array, unseen: Callable[[Array], Array]) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """REST answers alike from the cache and without it, and can leave the cache out."""
    iq = unseen(sound[:1])
    answers = [_rest(transformer, iq, **members) for members in ({}, {}, {"cache_enabled": False})]
    assert [answer["_cache_hit"] for answer in answers] == [False, True, False]
    for name in ("position", "uncertainty", "ellipse", "confidence", "model_version", "degraded"):
        assert answers[0][name] == answers[1][name] == answers[2][name]


def _rest(server: Any, iq: Array, **members: Any) -> dict[str, Any]:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    body = orjson.dumps({"iq_data": iq[0], **members}, option=orjson.OPT_SERIALIZE_NUMPY)
    answer = server.call("POST", PREDICT, body)
    assert answer.status == 200, answer.body
    told: dict[str, Any] = answer.json
    return told


def test_another_confidence_level_is_a_hit(
    transformer: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    sound: Array,
    unseen: Callable[[Array], Array],
) -> None:
    """The model's answer is kept, not the ellipse: every level is drawn from the same entry."""
    iq = unseen(sound[:1])
    wide = transformer.infer(iq, confidence_level=0.99)
    narrow = transformer.infer(iq, confidence_level=0.5)
    fresh = transformer.infer(iq, confidence_level=0.5, cache=False)
    assert (wide.parameters["cached"], narrow.parameters["cached"]) == ("[false]", "[true]")
    assert narrow.output("ellipse").array.tobytes() == fresh.output("ellipse").array.tobytes()
    assert narrow.output("ellipse").array[0, 0] < wide.output("ellipse").array[0, 0]


def test_a_bypass_leaves_no_trace(
    transformer: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    sound: Array,
    unseen: Callable[[Array], Array],
) -> None:
    """With `cache: false` nothing is stored either."""
    iq = unseen(sound[:1])
    told = [transformer.infer(iq, cache=False), transformer.infer(iq), transformer.infer(iq)]
    assert [one.parameters["cached"] for one in told] == ["[false]", "[false]", "[true]"]


def test_full_scale_and_datatype_are_part_of_the_question(
    transformer: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    sound: Array,
    unseen: Callable[[Array], Array],
) -> None:
    """Another power for the same samples is another capture; saying the contract's own is none."""
    iq = unseen(sound[:1])
    transformer.infer(iq)
    assert transformer.infer(iq, full_scale_dbm=-50.0).parameters["cached"] == "[true]"
    assert transformer.infer(iq, full_scale_dbm=-49.0).parameters["cached"] == "[false]"
    codes = np.clip(np.round(iq * 32768.0), -32768, 32767).astype(np.int16)
    assert transformer.infer(codes).parameters["cached"] == "[false]"


def test_degraded_answers_are_not_kept(
    transformer: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    sound: Array,
    unseen: Callable[[Array], Array],
) -> None:
    """An answer that deserves less trust is computed every time; its neighbour in the batch is kept."""
    iq = unseen(sound[:2])
    power = np.square(iq[1]).sum(axis=-1).mean(axis=-1).max()
    iq[1] *= np.float32(np.sqrt(10.0**3.0 / power))  # -20 dBm, where the training ends at -30 dBm
    for known in ("[false,false]", "[true,false]"):
        told = transformer.infer(iq)
        assert told.parameters["cached"] == known
        assert orjson.loads(told.parameters["degraded"])[0] == []
        assert "power" in orjson.loads(told.parameters["degraded"])[1]


def test_mixed_batches_say_which_items_were_known(
    transformer: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    sound: Array,
    unseen: Callable[[Array], Array],
) -> None:
    """Hits and misses of one batch keep their places and their numbers; equal items are computed once."""
    iq = unseen(sound)
    known = transformer.infer(iq[[1, 3]])
    batch = transformer.infer(np.concatenate([iq, iq[:1]]))
    assert batch.parameters["cached"] == "[false,true,false,true,false]"
    alone = transformer.infer(iq[[0, 2]], cache=False)
    for name in OUTPUTS:
        np.testing.assert_array_equal(batch.output(name).array[[1, 3]], known.output(name).array)
        np.testing.assert_allclose(batch.output(name).array[[0, 2]], alone.output(name).array, rtol=1e-5)
        np.testing.assert_array_equal(batch.output(name).array[4], batch.output(name).array[0])


def test_rest_batches_say_it_too(
    transformer: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    sound: Array,
    unseen: Callable[[Array], Array],
) -> None:
    """Each item of a REST batch has its own flag."""
    iq = unseen(sound[:2])
    transformer.infer(iq[1:])
    items = [{"iq_data": one} for one in iq]
    answer = transformer.call("POST", BATCH, orjson.dumps({"predictions": items}, option=orjson.OPT_SERIALIZE_NUMPY))
    assert [one["_cache_hit"] for one in answer.json["predictions"]] == [False, True]


def test_counts(fleet: Any, predictor: Any, sound: Array) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """Every item is one of hit, miss and bypass, in the metrics and in the model's page."""
    server = fleet.transformer(predictor.address)
    server.wait_until(server.ready)
    for parameters in ({}, {}, {}, {"cache": False}):
        server.infer(sound, **parameters)
    metrics = server.call("GET", "/metrics").body.decode()
    for event, items in (("hit", 8), ("miss", 4), ("bypass", 4)):
        assert f'transformer_cache_events_total{{event="{event}"}} {items}.0' in metrics
    info = server.call("GET", "/api/v1/inference/model/info").json
    assert (info["requests_total"], info["errors_total"]) == (4, 0)
    assert info["cache_hit_rate"] == pytest.approx(8 / 12)
    assert 0 < info["latency_ms"]["p50"] <= info["latency_ms"]["p99"]


@contextmanager
def _redis(folder: Path) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(folder)]
    with subprocess.Popen([*command, "--logfile", "log"]) as process:
        try:
            with redis.Redis(port=port) as client:
                latest_s = time.monotonic() + 10
                while True:
                    try:
                        client.ping()
                        break
                    except redis.ConnectionError:
                        assert time.monotonic() < latest_s
                        time.sleep(0.01)
            yield port
        finally:
            process.terminate()


@pytest.mark.skipif(not shutil.which("redis-server"), reason="needs the program redis-server")
def test_two_processes_share_one_redis(fleet: Any, predictor: Any, sound: Array, tmp_path: Path) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """What one transformer has computed another answers, bit for bit, within the time to live."""
    with _redis(tmp_path) as port:
        options = ("--redis_host", "127.0.0.1", "--redis_port", str(port), "--cache_ttl_s", "77")
        one, other = (fleet.transformer(predictor.address, *options) for _ in range(2))
        for server in (one, other):
            server.wait_until(server.ready)
            server.infer(sound[3:], cache=False)
        miss = one.infer(sound[:2])
        with redis.Redis(port=port) as client:
            other.wait_until(lambda: client.dbsize() == 2, 5.0)
            assert all(key.startswith(b"heimdall:answer:") and 0 < client.ttl(key) <= 77 for key in client.scan_iter())
        hit = other.infer(sound[:3])
        assert (miss.parameters["cached"], hit.parameters["cached"]) == ("[false,false]", "[true,true,false]")
        for name in OUTPUTS:
            assert hit.output(name).array[:2].tobytes() == miss.output(name).array.tobytes()


def test_a_replaced_version_is_not_answered_from_the_cache(fleet: Any, model_dir: Any, sound: Array) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """The same contract in another version behind the same host: hits of the old one end within `MAX_AGE_S`.

    The first replacement takes place under traffic, the second in a quiet time, after which the first answer counts.
    """
    served = fleet.predictor(model_dir("reference"), "--model_version", "1")
    server = fleet.transformer(served.address)
    server.wait_until(server.ready)
    assert [server.infer(sound[:1]).parameters["cached"] for _ in range(2)] == ["[false]", "[true]"]
    for version, quiet_s in (("2", 0.0), ("3", MAX_AGE_S)):
        served.stop()
        served = fleet.predictor(model_dir("reference"), "--model_version", version, http_port=served.http_port)
        ready_s = time.monotonic()
        time.sleep(quiet_s)
        told: list[tuple[float, str | None]] = []
        while (elapsed_s := time.monotonic() - ready_s) < MAX_AGE_S + 0.5:
            told.append((elapsed_s, server.infer(sound[:1]).model_version))
            time.sleep(0.05)
        assert {said for elapsed_s, said in told if elapsed_s >= MAX_AGE_S} == {version}
    request = InferRequest((Tensor("iq", sound[:1]),))
    assert server.infer_raw(request, path="/v2/models/localization/versions/1/infer").status == 404
