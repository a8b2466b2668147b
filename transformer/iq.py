"""Samples as the client sends them, checked and brought to full scale 1.

What belongs here: datatypes, shapes, and the gate that keeps from the model what it would answer with a confident
mistake: samples that are not finite, dead receivers, impossible powers. What does not: features, and repairs of any
kind. Nothing is scaled by its own content, padded or replaced, because the model reads positions from absolute powers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from transformer.errors import BadSamples, UnusableSamples

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from oip.messages import Array
    from transformer.contract import Contract, Interval

    C64 = np.ndarray[Any, np.dtype[np.complex64]]
    F32 = np.ndarray[Any, np.dtype[np.float32]]
    F64 = np.ndarray[Any, np.dtype[np.float64]]
    Bool = np.ndarray[Any, np.dtype[np.bool_]]

MAX_CLIPPED_FRACTION = 1e-3
"""More clipped samples than these mark an item: the front end was overloaded, so the power read from it is too low."""

QUANTISATION_MARGIN_DB = 10.0
"""Closer than this to the quantisation noise, more than 0.4 dB (10·log10(1 + 1/10)) of the power is not signal."""

MAX_BEYOND_POWER_RANGE_DB = 20.0
"""Further beyond the powers of the training than this is a wrong scale or a broken receiver, not a rare capture."""

_IQ_PAIR = 2
_AXES_WITHOUT_ITEMS = 3


@dataclass(frozen=True, slots=True)
class IntegerFormat:
    """An integer sample format: value = (code − offset) / full_scale.

    Attributes:
        offset: The code of zero volts.
        full_scale: Codes from zero volts to magnitude 1.
        lowest: Codes up to this one count as clipped.
        highest: Codes from this one on count as clipped.
    """

    offset: float
    full_scale: float
    lowest: int
    highest: int

    @property
    def noise_power(self) -> float:
        """Quantisation noise of I and Q together, relative to full scale: 2·step²/12 (Bennett, BSTJ 27, 1948)."""
        return 1.0 / (6.0 * self.full_scale**2)


INTEGER_FORMATS: Mapping[np.dtype[Any], IntegerFormat] = MappingProxyType(
    {
        # A converter that clips symmetrically never reaches −2^(b−1), so its lowest code is −(2^(b−1) − 1).
        np.dtype("<i2"): IntegerFormat(0.0, 32768.0, -32767, 32767),
        np.dtype("i1"): IntegerFormat(0.0, 128.0, -127, 127),
        np.dtype("u1"): IntegerFormat(127.5, 127.5, 0, 255),
    }
)
"""cs16, cs8 and cu8 as GNU Radio, SigMF (ri16_le, ri8, ru8) and the RTL-SDR tools write them."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Checked samples of B items.

    Attributes:
        iq: complex64 [B, R, N] with magnitude 1 at full scale; N is the contract's number of samples.
        power_dbm: float64 [B, R], mean power.
        clipped_fraction: float64 [B, R], part of the samples with I or Q at the end of the integer's range; 0 for FP32,
            whose scale is not known well enough to say.
        cropped: Whether more samples were sent than the model sees; those behind the first N were not looked at.
        degraded: For each item why its answer deserves less trust: "power", "clipped", "quantisation".
    """

    iq: C64
    power_dbm: F64
    clipped_fraction: F64
    cropped: bool
    degraded: tuple[tuple[str, ...], ...]


def parse_samples(array: Array, contract: Contract, full_scale_dbm: float | None = None) -> Samples:
    """Check samples against the contract and bring them to full scale 1.

    Args:
        array: FP32, INT16, INT8 or UINT8, [B, R, N, 2]; B may be left out, and R too when the model has one receiver.
            FP32 that lies in memory as it should is not copied.
        contract: Of the model that shall see the samples.
        full_scale_dbm: Power of a sample of magnitude 1; None: as the contract says.

    Raises:
        BadSamples: Datatype, shape, number of samples, or a sample that is not finite.
        UnusableSamples: A receiver that delivers a constant, or more than 20 dB beyond the powers of the training.
    """
    codes, cropped = fit(array, contract)
    integer = INTEGER_FORMATS.get(codes.dtype)
    iq = _complex(codes) if integer is None else _scale(codes, integer)
    power = _mean_power(iq, contract)
    _refuse_dead(iq, power, contract)
    power_dbm = 10.0 * np.log10(power) + (contract.full_scale_dbm if full_scale_dbm is None else full_scale_dbm)
    clipped = np.zeros(power.shape) if integer is None else _clipped_fraction(codes, integer)
    doubts = {
        "power": _outside(power_dbm, contract),
        "clipped": clipped > MAX_CLIPPED_FRACTION,
        "quantisation": _near_quantisation_noise(power, integer),
    }
    return Samples(iq, power_dbm, clipped, cropped, tuple(_reasons(doubts, items=len(power))))


def fit(array: Array, contract: Contract) -> tuple[Array, bool]:
    """The array as [B, R, samples, 2], a view, and whether samples were left behind.

    Raises:
        BadSamples: Datatype, shape or number of samples.
    """
    if array.dtype != np.float32 and array.dtype not in INTEGER_FORMATS:
        raise BadSamples(f"iq: the datatype must be FP32, INT16, INT8 or UINT8, not {array.dtype}")
    receivers = len(contract.receivers)
    whole = _with_all_axes(array, receivers)
    if whole.ndim != _AXES_WITHOUT_ITEMS + 1 or whole.shape[1] != receivers or whole.shape[3] != _IQ_PAIR:
        needed = "[B,R,N,2] or [R,N,2]" + (", [B,N,2] or [N,2]" if receivers == 1 else "")
        raise BadSamples(f"iq: the shape must be {needed} with R = {receivers}, not {list(array.shape)}")
    if not whole.shape[0]:
        raise BadSamples("iq: the batch is empty")
    _check_length(whole.shape[2], contract)
    return whole[:, :, : contract.samples], whole.shape[2] > contract.samples


def _with_all_axes(array: Array, receivers: int) -> Array:
    if receivers == 1 and array.ndim < _AXES_WITHOUT_ITEMS:
        array = array[np.newaxis]
    if array.ndim == _AXES_WITHOUT_ITEMS:
        return array[:, np.newaxis] if receivers == 1 else array[np.newaxis]
    return array


def _check_length(count: int, contract: Contract) -> None:
    if count < contract.features.fft_size:
        raise BadSamples(f"iq: {count} samples do not fill one FFT of {contract.features.fft_size}")
    if count < contract.samples:
        raise BadSamples(f"iq: {count} samples for each receiver are too few; the model needs {contract.samples}")


def _complex(values: Array) -> C64:
    """FP32 [..., 2] as complex64 [...]: a view, or a copy where the body's bytes are not aligned or not contiguous."""
    pairwise = values.flags.aligned and values.strides[-1] == values.itemsize
    paired = values if pairwise else np.require(values, np.float32, ["C", "A"])
    return paired.view(np.complex64)[..., 0]


def _scale(codes: Array, integer: IntegerFormat) -> C64:
    """(code − offset) / full_scale in FP32 throughout; the difference is exact, so only the quotient rounds."""
    values = codes.astype(np.float32, order="C")
    if integer.offset:
        values -= np.float32(integer.offset)
        values /= np.float32(integer.full_scale)
    else:  # a power of two: its reciprocal is exact, and multiplying takes half the time of dividing
        values *= np.float32(1.0 / integer.full_scale)
    return values.view(np.complex64)[..., 0]


def _mean_power(iq: C64, contract: Contract) -> F64:
    """Mean of |x|² [B, R] relative to full scale; one sum per receiver also finds every sample that is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.asarray(np.vecdot(iq, iq).real, np.float64)
    if not np.isfinite(total).all():
        _refuse_not_finite(iq, contract)
        # Finite, but too large to square in FP32: the check of the power's range shall have the word.
        wide = iq.astype(np.complex128)
        total = np.asarray(np.vecdot(wide, wide).real, np.float64)
    return np.asarray(total / iq.shape[-1])


def _refuse_not_finite(iq: C64, contract: Contract) -> None:
    places = np.argwhere(~np.isfinite(iq))
    if len(places):
        item, receiver, index = (int(axis) for axis in places[0])
        more = f", nor are {len(places) - 1} more" if len(places) > 1 else ""
        raise BadSamples(f"iq: {_where(item, receiver, contract)}: sample {index} is not finite{more}")


def _refuse_dead(iq: C64, power: F64, contract: Contract) -> None:
    """Refuse zeros and constants: samples that never change come from a loose cable, a mute or a stuck converter."""
    dead = power == 0.0
    if (iq[..., 0] == iq[..., -1]).any():  # hardly ever so where anything changes, and then the rest need not be read
        dead |= (iq == iq[..., :1]).all(axis=-1)
    for item, receiver in np.argwhere(dead).tolist():
        raise UnusableSamples(f"iq: {_where(item, receiver, contract)}: is dead, every sample is the same")


def _clipped_fraction(codes: Array, integer: IntegerFormat) -> F64:
    if integer.lowest < codes.min() and codes.max() < integer.highest:  # the ordinary case: 4 µs, not 37
        return np.zeros(codes.shape[:2])
    at_limit: Bool = (codes <= integer.lowest) | (codes >= integer.highest)
    return np.asarray(np.mean(at_limit[..., 0] | at_limit[..., 1], axis=-1))  # `any(axis=-1)` is 25 times slower


def _near_quantisation_noise(power: F64, integer: IntegerFormat | None) -> Bool:
    least = 0.0 if integer is None else integer.noise_power * math.pow(10.0, QUANTISATION_MARGIN_DB / 10.0)
    return power < least


def _outside(power_dbm: F64, contract: Contract) -> Bool:
    """Which receivers [B, R] are beyond the powers of the training; raises `UnusableSamples` for those far beyond."""
    known = contract.power_range_dbm
    if known is None:
        return np.zeros(power_dbm.shape, np.bool_)
    beyond_db = np.maximum(known.low - power_dbm, power_dbm - known.high)
    for item, receiver in np.argwhere(beyond_db > MAX_BEYOND_POWER_RANGE_DB).tolist():
        raise UnusableSamples(_far_beyond(_where(item, receiver, contract), power_dbm[item, receiver], known))
    return beyond_db > 0.0


def _far_beyond(where: str, power_dbm: float, known: Interval) -> str:
    return (
        f"iq: {where}: the mean power of {power_dbm:.1f} dBm is far outside the {known.low:g} to {known.high:g} dBm "
        "that the model knows; check the scale of the samples and full_scale_dbm"
    )


def _reasons(doubts: Mapping[str, Bool], items: int) -> Iterator[tuple[str, ...]]:
    for item in range(items):
        yield tuple(reason for reason, receivers in doubts.items() if receivers[item].any())


def _where(item: int, receiver: int, contract: Contract) -> str:
    return f"item {item}, receiver {receiver} ({contract.receivers[receiver].name})"
