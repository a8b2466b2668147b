from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import orjson
import pytest
import tritonclient.http
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from reference.contract import FEATURE_MEAN, FEATURE_STD
from reference.estimates import LocalModel, standard_features
from reference.pooling import selection
from reference.simulate import RADIO, Captures

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from reference.arrays import C64, F32

OUTPUTS = ("position", "covariance", "ellipse", "confidence")
MODEL = "localization"


def answers(response: Any) -> list[bytes]:  # noqa: ANN401 - ours or tritonclient's
    """The bytes of the four numeric outputs: what "bit for bit" means."""
    if isinstance(response, tritonclient.http.InferResult):
        return [response.as_numpy(name).tobytes() for name in OUTPUTS]
    return [response.output(name).array.tobytes() for name in OUTPUTS]


def test_json_and_binary_agree_bit_for_bit(transformer: Any, drawn: Captures) -> None:  # noqa: ANN401 - of conftest.py
    """The encoding of request and response changes no bit of the answer; neither does the batch."""
    binary = transformer.infer(drawn.iq)
    assert answers(transformer.infer(drawn.iq, binary=False)) == answers(binary)
    alone = [transformer.infer(drawn.iq[index]) for index in range(3)]
    for name in ("position", "ellipse"):
        together = binary.output(name).array
        np.testing.assert_allclose([one.output(name).array[0] for one in alone], together[:3], rtol=1e-6)


def test_rest_agrees_bit_for_bit(transformer: Any, drawn: Captures) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """The front end's API answers with the same numbers, with and without its prefix, alone and in a batch."""
    expected = [transformer.infer(one, confidence_level=0.68, cache=False) for one in drawn.iq[:3]]
    items = [
        {"iq_data": one, "confidence_level": 0.68, "session_id": "s", "cache_enabled": False} for one in drawn.iq[:3]
    ]
    single = [_post(transformer, "/api/v1/inference/predict", item) for item in items]
    assert _post(transformer, "/predict", items[0])["position"] == single[0]["position"]
    batch = _post(transformer, "/api/v1/inference/predict/batch", {"predictions": items})
    assert batch["batch_size"] == 3
    for answer, one in zip(single + batch["predictions"], expected * 2, strict=True):
        latitude, longitude = one.output("position").array[0]
        assert (answer["position"]["latitude"], answer["position"]["longitude"]) == (latitude, longitude)
        major, minor, bearing = one.output("ellipse").array[0]
        ellipse = answer["ellipse"]
        assert (ellipse["semi_major_axis_m"], ellipse["semi_minor_axis_m"]) == (major, minor)
        assert ellipse["bearing_degrees"] == bearing
        assert np.float32(answer["confidence"]) == one.output("confidence").array[0]
        assert (answer["model_version"], answer["session_id"], answer["_cache_hit"]) == ("1", "s", False)


def _post(server: Any, path: str, members: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    answer = server.call("POST", path, orjson.dumps(members, option=orjson.OPT_SERIALIZE_NUMPY))
    assert answer.status == 200, answer.body
    document: dict[str, Any] = answer.json
    return document


@pytest.mark.parametrize("binary", [False, True])
def test_tritonclient(transformer: Any, drawn: Captures, binary: bool) -> None:  # noqa: ANN401, FBT001
    """The strictest client reads our metadata and gets the same answer in both of its encodings."""
    client = tritonclient.http.InferenceServerClient(transformer.address, network_timeout=20.0)
    try:
        assert client.is_server_ready()
        assert client.is_model_ready(MODEL)
        assert [one["name"] for one in client.get_model_metadata(MODEL)["outputs"]] == [*OUTPUTS, "geojson"]
        tensor = tritonclient.http.InferInput("iq", list(drawn.iq[:2].shape), "FP32")
        tensor.set_data_from_numpy(drawn.iq[:2], binary_data=binary)
        asked = [tritonclient.http.InferRequestedOutput(name, binary_data=binary) for name in (*OUTPUTS, "geojson")]
        result = client.infer(MODEL, [tensor], outputs=asked, model_version="1", request_id="7")
    finally:
        client.close()
    assert answers(result) == answers(transformer.infer(drawn.iq[:2]))
    assert result.get_response()["id"] == "7"
    feature = orjson.loads(result.as_numpy("geojson")[0])
    assert (feature["type"], feature["geometry"]["type"]) == ("Feature", "Polygon")


def test_grpc(transformer: Any, drawn: Captures) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """The SDK's gRPC route goes the same path: same bits, same version, errors with a status of their own."""
    iq = drawn.iq[:2]
    with grpc.insecure_channel(f"127.0.0.1:{transformer.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        answer = stub.ModelInfer(_grpc_request(iq), timeout=20)
        metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name=MODEL), timeout=20)
        with pytest.raises(grpc.RpcError) as silent:
            stub.ModelInfer(_grpc_request(np.zeros_like(iq)), timeout=20)
        with pytest.raises(grpc.RpcError) as other:
            stub.ModelInfer(_grpc_request(iq, model_version="9"), timeout=20)
    assert answer.raw_output_contents[:4] == answers(transformer.infer(iq))
    assert answer.model_version == "1"
    assert [one.name for one in metadata.inputs] == ["iq"]
    assert silent.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "receiver 0" in silent.value.details()
    assert other.value.code() is grpc.StatusCode.NOT_FOUND


def _grpc_request(iq: F32, **members: Any) -> pb.ModelInferRequest:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    tensor = pb.ModelInferRequest.InferInputTensor(name="iq", datatype="FP32", shape=iq.shape)
    return pb.ModelInferRequest(model_name=MODEL, inputs=[tensor], raw_input_contents=[iq.tobytes()], **members)


def test_an_implementation_of_its_own_agrees(
    transformer: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    drawn: Captures,
    model_dir: Callable[[str], Path],
) -> None:
    """Features, model and ellipses computed without the service's code give the same, to the rounding of FP32."""
    expected = LocalModel(model_dir("reference") / "model.onnx").estimate(drawn)
    for level in (0.5, 0.95):
        served = transformer.infer(drawn.iq, confidence_level=level)
        np.testing.assert_allclose(served.output("position").array, expected.position_deg, atol=2e-4)
        covariance = served.output("covariance").array
        np.testing.assert_allclose(covariance, expected.covariance_m2, rtol=0.01, atol=1e-3 * covariance.max())
        np.testing.assert_allclose(served.output("confidence").array, expected.confidence, atol=2e-3)
        ellipse, own = served.output("ellipse").array, expected.ellipses[level]
        np.testing.assert_allclose(ellipse[:, :2], own[:, :2], rtol=5e-3)
        turn_deg = np.abs((ellipse[:, 2] - own[:, 2] + 90.0) % 180.0 - 90.0)
        assert (turn_deg * (1.0 - own[:, 1] / own[:, 0])).max() < 0.5


def test_samples_of_any_format(transformer: Any, drawn: Captures) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
    """Integer codes are answered as FP32 of the same values is, bit for bit: ÷ 32768, ÷ 128, (x − 127.5) ÷ 127.5."""
    scale = 0.9 / np.abs(drawn.iq).max(axis=(1, 2, 3), keepdims=True)
    level_dbm = RADIO.full_scale_dbm - 20.0 * float(np.log10(scale[0].item()))
    unit = drawn.iq[:1] * scale[:1]
    for dtype, offset, full in ((np.int16, 0.0, 32768.0), (np.int8, 0.0, 128.0), (np.uint8, 127.5, 127.5)):
        codes = np.round(unit * full + offset).astype(dtype)
        values = (codes.astype(np.float32) - np.float32(offset)) / np.float32(full)
        served = transformer.infer(codes, full_scale_dbm=level_dbm)
        assert answers(served) == answers(transformer.infer(values, full_scale_dbm=level_dbm))


def test_int16_differs_by_no_more_than_quantisation_explains(
    transformer: Any,  # noqa: ANN401 - of a conftest.py, which cannot be imported
    drawn: Captures,
    model_dir: Callable[[str], Path],
) -> None:
    """The position from INT16 codes lies within the shift that their quantisation noise can cause.

    Rounding to steps Δ adds white noise of power P_q = 2·Δ²/12 (Bennett, BSTJ 27, 1948). The power P over n samples
    then changes by P_q plus the cross term (2/n)·Re Σ s*·e of variance 2·P·P_q/n: in nepers of power by no more than
    δ = P_q/P + 6·√(2·P_q/(P·n)), but for one case in 10⁹. The model reads positions from two powers of each receiver,
    in and out of the signal's band. So the bound is the sum of what the position moves when each of these alone moves
    by its δ, times 1.5 for what is not linear in between and for the window, which weights the samples unevenly.
    """
    few = Captures(drawn.iq[:8], drawn.position_deg[:8])
    full_scale = 2.0 ** np.ceil(np.log2(np.abs(few.iq).max()))
    codes = np.round(few.iq / full_scale * 32768.0).clip(-32768, 32767).astype(np.int16)
    level_dbm = RADIO.full_scale_dbm + 20.0 * float(np.log10(full_scale))
    served = transformer.infer(codes, full_scale_dbm=level_dbm).output("position").array
    exact = transformer.infer(few.iq).output("position").array
    bound_deg = 1.5 * _largest_shift_deg(few, model_dir("reference") / "model.onnx", level_dbm)
    assert (np.abs(served - exact) <= bound_deg).all()
    assert bound_deg.max() < 0.2  # the bound itself is far below the model's error of some 0.3 degrees


def _largest_shift_deg(few: Captures, path: Path, full_scale_dbm: float) -> Any:  # noqa: ANN401 - float64 [K,2]
    """Sum over receivers and bands of the shifts of latitude and longitude, each the larger of both signs."""
    noise_mw = 10.0 ** (full_scale_dbm / 10.0) / (6.0 * 32768.0**2)
    base = LocalModel(path).estimate(few).position_deg
    total = np.zeros_like(base)
    for receiver in range(few.iq.shape[1]):
        for band in selection().T > 0:
            shifts = []
            for sign in (-1.0, 1.0):
                model = LocalModel(path, _Shifted(receiver, band, sign, noise_mw))
                shifts.append(np.abs(model.estimate(few).position_deg - base))
            total += np.maximum(*shifts)
    return total


class _Shifted:
    """The standard features with the power of some bands of one receiver changed as quantisation may change it."""

    def __init__(self, receiver: int, bands: Any, sign: float, noise_mw: float) -> None:  # noqa: ANN401 - bool [F]
        self._receiver, self._bands, self._sign, self._noise_mw = receiver, bands, sign, noise_mw

    def __call__(self, iq: C64) -> F32:
        """The features of all receivers."""
        features = standard_features(iq)
        part = features[:, self._receiver][..., self._bands]
        power_mw = np.exp(part * FEATURE_STD + FEATURE_MEAN).sum(axis=-1).mean(axis=-1)
        ratio = self._noise_mw / power_mw
        change = self._sign * (ratio + 6.0 * np.sqrt(2.0 * ratio / iq.shape[-1]))
        features[:, self._receiver][..., self._bands] += (change / FEATURE_STD)[:, None, None].astype(np.float32)
        return features
