from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from transformer.errors import BadSamples, UnusableSamples
from transformer.features import LogMel
from transformer.iq import parse_samples

if TYPE_CHECKING:
    from tests.unit.transformer.conftest import Contracts
    from transformer.contract import Contract

Array = np.ndarray[Any, np.dtype[Any]]
RECORDING = Path(__file__).parents[4] / "shared" / "data" / "modes1.cu8"


def capture(*shape: int, power_dbfs: float = -20.0) -> Array:
    """Complex Gaussian noise of that mean power, FP32 [..., 2]."""
    sigma = np.sqrt(10.0 ** (power_dbfs / 10.0) / 2.0)
    return np.random.default_rng(1).normal(scale=sigma, size=(*shape, 2)).astype(np.float32)


def test_fp32_is_seen_without_a_copy(contract: Contract) -> None:
    """An aligned FP32 tensor becomes complex64 in place, also when it is cropped."""
    array = capture(2, 7, 5000)
    samples = parse_samples(array, contract)
    assert np.shares_memory(samples.iq, array)
    assert samples.iq.dtype == np.complex64
    assert samples.iq.shape == (2, 7, 4480)
    np.testing.assert_array_equal(samples.iq.real, array[:, :, :4480, 0])
    np.testing.assert_array_equal(samples.iq.imag, array[:, :, :4480, 1])


@pytest.mark.parametrize("layout", ["unaligned", "transposed"])
def test_awkward_memory_gives_the_same_samples(layout: str, contract: Contract) -> None:
    """Bytes at odd addresses and strided tensors are copied, not misread."""
    array = capture(1, 7, 4480)
    awkward = np.asfortranarray(array)
    if layout == "unaligned":
        awkward = np.frombuffer(memoryview(b"\0" + array.tobytes())[1:], np.float32).reshape(array.shape)
        assert not awkward.flags.aligned
    np.testing.assert_array_equal(parse_samples(awkward, contract).iq, parse_samples(array, contract).iq)
    codes = np.round(array * 30000).astype(np.int16)
    np.testing.assert_array_equal(
        parse_samples(np.asfortranarray(codes), contract).iq, parse_samples(codes, contract).iq
    )


@pytest.mark.parametrize(
    ("dtype", "codes", "values"),
    [
        (np.int16, [-32768, -1, 0, 16384], [-1.0, -1 / 32768, 0.0, 0.5]),
        (np.int8, [-128, -1, 0, 64], [-1.0, -1 / 128, 0.0, 0.5]),
        (np.uint8, [0, 127, 128, 255], [-1.0, -0.5 / 127.5, 0.5 / 127.5, 1.0]),
    ],
)
def test_integer_codes_have_their_scale(
    dtype: type, codes: list[int], values: list[float], contracts: Contracts
) -> None:
    """cs16, cs8 and cu8 are scaled by 32768, 128 and 127.5 around the code of zero volts, rounded once to FP32."""
    array = np.resize(np.array(codes, dtype), (4480, 2))
    iq = parse_samples(array, contracts.one_receiver(power_range_dbm=...)).iq
    np.testing.assert_array_equal(iq[0, 0, :2].view(np.float32), np.array(values, np.float32))


def test_axes_may_be_left_out(contract: Contract, contracts: Contracts) -> None:
    """B may be absent, and R too for a model of one receiver."""
    one = contracts.one_receiver()
    assert parse_samples(capture(7, 4480), contract).iq.shape == (1, 7, 4480)
    assert parse_samples(capture(4480), one).iq.shape == (1, 1, 4480)
    assert parse_samples(capture(3, 4480), one).iq.shape == (3, 1, 4480)
    assert parse_samples(capture(3, 1, 4480), one).iq.shape == (3, 1, 4480)


@pytest.mark.parametrize(
    "shape", [(), (2,), (4480, 2), (7, 2, 4480), (1, 6, 4480, 2), (1, 7, 4480, 3), (1, 1, 7, 4480, 2)]
)
def test_other_shapes_are_refused(shape: tuple[int, ...], contract: Contract) -> None:
    """Planar samples, a wrong number of receivers and missing axes are shape errors that say what is needed."""
    with pytest.raises(BadSamples, match=r"shape must be \[B,R,N,2\].*R = 7"):
        parse_samples(np.ones(shape, np.float32), contract)


def test_an_empty_batch_is_refused(contract: Contract) -> None:
    """A batch of no items has no answer."""
    with pytest.raises(BadSamples, match="empty"):
        parse_samples(capture(0, 7, 4480), contract)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.dtype(">f4"), np.bool_])
def test_other_datatypes_are_refused(dtype: type, contract: Contract) -> None:
    """Only the four declared sample formats are read."""
    with pytest.raises(BadSamples, match="datatype"):
        parse_samples(capture(1, 7, 4480).astype(dtype), contract)


@pytest.mark.parametrize(("count", "message"), [(511, "FFT of 512"), (512, "needs 4480"), (4479, "needs 4480")])
def test_short_captures_are_refused(count: int, message: str, contract: Contract) -> None:
    """Nothing is padded: too few samples are refused with the number that is needed."""
    with pytest.raises(BadSamples, match=message):
        parse_samples(capture(1, 7, count), contract)


def test_samples_behind_the_needed_ones_are_not_looked_at(contract: Contract) -> None:
    """A longer capture is cropped, flagged, and gives what its beginning gives, whatever lies behind."""
    array = capture(1, 7, 4500)
    array[..., 4480:, :] = np.nan
    samples = parse_samples(array, contract)
    assert samples.cropped
    whole = parse_samples(array[:, :, :4480], contract)
    assert not whole.cropped
    np.testing.assert_array_equal(samples.iq, whole.iq)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", [0, 1])
def test_one_bad_sample_is_found(bad: float, part: int, contract: Contract) -> None:
    """A single NaN or infinity, in I or in Q, is named by item, receiver and index."""
    array = capture(3, 7, 4480)
    array[1, 2, 4479, part] = bad
    with pytest.raises(BadSamples, match=r"item 1, receiver 2 \(Torino\): sample 4479 is not finite$"):
        parse_samples(array, contract)
    array[2, 0, 5, part] = bad
    with pytest.raises(BadSamples, match="nor are 1 more"):
        parse_samples(array, contract)


@pytest.mark.parametrize("constant", [0.0, -0.0, 0.01, 1e-30])
def test_dead_receivers_are_named(constant: float, contract: Contract) -> None:
    """Zeros, a constant, and samples too small to have a power are refused: the model would answer with confidence."""
    array = capture(2, 7, 4480)
    array[1, 3] = constant
    with pytest.raises(UnusableSamples, match=r"item 1, receiver 3 \(Coazze\): is dead"):
        parse_samples(array, contract)


def test_dead_cu8_receiver_is_named(contract: Contract) -> None:
    """A cu8 receiver that is silent delivers code 127 or 128, which is not zero but constant."""
    codes = np.round(capture(1, 7, 4480) * 127.5 + 127.5).astype(np.uint8)
    codes[0, 5] = 128
    with pytest.raises(UnusableSamples, match="Genova"):
        parse_samples(codes, contract)


def test_power_is_absolute(contract: Contract) -> None:
    """Mean power follows the level and the declared full scale; nothing is normalised by content."""
    loud, quiet = parse_samples(capture(1, 7, 4480), contract), parse_samples(capture(1, 7, 4480) / 10, contract)
    np.testing.assert_allclose(loud.power_dbm, -70.0, atol=0.3)
    np.testing.assert_allclose(loud.power_dbm - quiet.power_dbm, 20.0, atol=1e-4)
    shifted = parse_samples(capture(1, 7, 4480), contract, full_scale_dbm=-56.0)
    np.testing.assert_allclose(loud.power_dbm - shifted.power_dbm, 6.0)


@pytest.mark.parametrize(("power_dbfs", "reasons"), [(-20.0, ()), (2.0, ("power",)), (-80.0, ("power",))])
def test_unusual_power_degrades(power_dbfs: float, reasons: tuple[str, ...], contract: Contract) -> None:
    """A receiver somewhat beyond the training's powers marks its item, and only its item."""
    array = capture(2, 7, 4480)
    array[1, 4] = capture(4480, power_dbfs=power_dbfs)
    assert parse_samples(array, contract).degraded == ((), reasons)


@pytest.mark.parametrize("power_dbfs", [20.0, -97.0, 500.0])
def test_impossible_power_is_refused(power_dbfs: float, contract: Contract) -> None:
    """Unscaled integers sent as FP32, and values whose square leaves FP32, are refused and not answered."""
    array = capture(1, 7, 4480)
    array[0, 6] = (capture(4480, power_dbfs=0.0).astype(np.float64) * 10.0 ** (power_dbfs / 20.0)).astype(np.float32)
    with pytest.raises(UnusableSamples, match=r"receiver 6 \(Milano-Baggio\): the mean power"):
        parse_samples(array, contract)


def test_without_a_power_range_any_power_passes(contracts: Contracts) -> None:
    """A contract that knows no range sets no limit."""
    assert parse_samples(capture(1, 7, 4480, power_dbfs=60.0), contracts.make(power_range_dbm=...)).degraded == ((),)


@pytest.mark.parametrize(("clipped", "reasons"), [(4, ()), (5, ("clipped",))])
def test_clipping_is_counted_for_integers(clipped: int, reasons: tuple[str, ...], contract: Contract) -> None:
    """More than 0.1 % of samples with I or Q at a limit of the code mark the item; 4 of 4480 do not, 5 do."""
    codes = np.round(capture(2, 7, 4480) * 32768).astype(np.int16)
    codes[1, 0, :clipped, 0] = 32767
    codes[1, 0, : clipped - 1, 1] = -32767
    samples = parse_samples(codes, contract)
    assert samples.degraded == ((), reasons)
    assert samples.clipped_fraction[1, 0] == clipped / 4480
    assert not parse_samples(capture(1, 7, 4480), contract).clipped_fraction.any()


def test_quantisation_noise_is_flagged(contracts: Contract) -> None:
    """An 8-bit capture within 10 dB of its own rounding noise (-49.9 dBFS) is marked, a louder one is not."""
    contract = contracts.make(power_range_dbm=...)
    near, far = capture(7, 4480, power_dbfs=-41.0), capture(7, 4480, power_dbfs=-38.5)
    near[0], far[0] = far[0], far[1]
    codes = np.round(np.stack([near, far]) * 128).astype(np.int8)
    assert parse_samples(codes, contract).degraded == (("quantisation",), ())
    assert parse_samples(np.stack([near, far]), contract).degraded == ((), ())


@pytest.mark.skipif(not RECORDING.exists(), reason="the recording is not part of the repository")
def test_a_real_recording_keeps_its_negative_frequencies(contracts: Contracts) -> None:
    """75.5 % of this ADS-B recording's energy is at negative frequencies; dropping or mirroring them would show."""
    codes = np.fromfile(RECORDING, np.uint8).reshape(-1, 2)
    count = len(codes)
    frames = 1 + (count - 512) // 128
    contract = contracts.one_receiver(
        sample_rate_hz=2_000_000, samples=count, features__frames=frames, power_range_dbm=...
    )
    samples = parse_samples(codes, contract)
    bands = LogMel(contract).band_powers_mw(samples.iq).sum(axis=(0, 1, 2))
    assert bands[:64].sum() / bands.sum() == pytest.approx(0.755, abs=0.01)
    spectrum = np.abs(np.fft.fft(samples.iq[0, 0].astype(np.complex128))) ** 2
    assert spectrum[count // 2 :].sum() / spectrum.sum() == pytest.approx(0.755, abs=0.01)
