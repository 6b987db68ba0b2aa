"""Formulas of the Numba kernel: exp, tanh, the 16-bit types, the transposition of a tile.

Purpose: each function takes and returns `Num`, a scalar or a vector of float32 or float64,
and states its error bound.
Non-goals: memory and loops.

ULP = distance between neighbouring numbers at the result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llvmlite import ir

from fastattn.implementations._numba.ir import Num, itemsize

__all__ = [
    "bfloat16_to_float32",
    "exp",
    "finite_shift",
    "float16_to_float32",
    "float32_to_bfloat16",
    "float32_to_float16",
    "joined",
    "tanh",
    "transpose",
]

_SUBLANE_BYTES = 16  # shuffles within 128 bits are one instruction on x86 and Arm


@dataclass(frozen=True, slots=True)
class _Format:
    """Constants of one floating-point type.

    ``ln2_high`` has enough trailing zeros that its product with an exponent is exact
    (Cody and Waite, 1980); adding ``round_magic`` leaves the nearest whole number in the
    low bits of the significand.
    """

    bits: int
    bias: int
    fraction_bits: int
    round_magic: float
    lowest: float  # exp of anything below is subnormal, and flushed to 0
    ln2_high: float
    ln2_low: float
    exp_series: tuple[float, ...]  # (e^r - 1 - r) / r^2, lowest power first
    tanh_one: float  # tanh rounds to 1 from here on


_FLOAT32 = _Format(
    bits=32,
    bias=127,
    fraction_bits=23,
    round_magic=1.5 * 2.0**23,
    lowest=-87.3365,
    ln2_high=0.693359375,
    ln2_low=-2.12194440e-4,
    # Interpolated at the Chebyshev points of [-ln 2 / 2, ln 2 / 2]: 1.0e-8 off at most.
    exp_series=(0.5, 0.16666576989698803, 0.04166655461721519, 0.0083631790527194,
                0.0013926183586701981),
    tanh_one=9.1,
)  # fmt: skip

_FLOAT64 = _Format(
    bits=64,
    bias=1023,
    fraction_bits=52,
    round_magic=1.5 * 2.0**52,
    lowest=-708.396,
    ln2_high=6.93145751953125e-1,
    ln2_low=1.42860682030941723212e-6,
    # Taylor's series to r^13: (ln 2 / 2)^14 / 14! = 4e-18 off at most.
    exp_series=tuple(1 / math.factorial(k) for k in range(2, 14)),
    tanh_one=20.0,
)


def _format(value: Num) -> _Format:
    return _FLOAT32 if itemsize(value.element) == 4 else _FLOAT64


def _polynomial(x: Num, coefficients: Sequence[float]) -> Num:
    """Horner's rule, lowest power first."""
    result = x.like(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = result.times_plus(x, coefficient)
    return result


def exp(x: Num) -> Num:
    """``e^x`` within 2 ULP for x up to 88; 0 where the result is subnormal; NaN for NaN.

    ``e^x = 2^n e^r`` with ``n = round(x / ln 2)`` and ``|r| <= ln 2 / 2``.
    """
    f = _format(x)
    # NaN and -inf become `lowest` here, but for n only: r keeps them, and so does the result.
    shifted = x.at_least(f.lowest).times_plus(1 / math.log(2), f.round_magic)
    n = shifted - f.round_magic
    r = n.times_plus(-f.ln2_low, n.times_plus(-f.ln2_high, x))
    series = _polynomial(r, f.exp_series).times_plus(r * r, r) + 1.0
    two_to_n = ((shifted.bits() + f.bias) << f.fraction_bits).as_float(x.element)
    return x.like(0.0).where(x < f.lowest, series * two_to_n)


def finite_shift(peak: Num) -> Num:
    """What to subtract from scores whose maximum is `peak`: 0 if nothing is visible.

    Then ``exp(-inf - 0) = 0`` for each hidden key.
    """
    return peak.like(0.0).where(peak.equals(-math.inf), peak)


def joined(before: Num, peak: Num) -> tuple[Num, Num, Num]:
    """Maximum of two parts of a row, and the factors that make their sums relative to it."""
    now = peak.at_least(before)
    shift = finite_shift(now)
    return now, exp(before - shift), exp(peak - shift)


def tanh(x: Num) -> Num:
    """Hyperbolic tangent within 3 ULP; NaN for NaN.

    The odd series below 0.625 keeps small arguments accurate, where
    ``1 - 2 / (e^2x + 1)`` cancels (Moshier, Cephes, ``tanhf.c`` and ``tanh.c``).
    """
    f = _format(x)
    sign = x.bits() & (1 << (f.bits - 1))
    size = (x.bits() & ((1 << (f.bits - 1)) - 1)).as_float(x.element)
    # NaN lands on `tanh_one` here; it is put back at the end.
    limited = size.at_most(f.tanh_one)
    large = limited.like(1.0) - limited.like(2.0) / (exp(limited + limited) + 1.0)
    signed = (large.bits() | sign).as_float(x.element)
    z = x * x
    if f.bits == 32:
        quotient = _polynomial(
            z,
            (-3.33332819422e-1, 1.33314422036e-1, -5.37397155531e-2, 2.06390887954e-2,
             -5.70498872745e-3),
        )  # fmt: skip
    else:
        quotient = _polynomial(
            z,
            (-1.61468768441708447952e3, -9.92877231001918586564e1, -9.64399179425052238628e-1),
        ) / _polynomial(
            z,
            (4.84406305325125486048e3, 2.23548839060100448583e3, 1.12811678491632931402e2, 1.0),
        )
    small = (quotient * z).times_plus(x, x)
    result = small.where(size < 0.625, signed)
    return result.where(size >= 0.0, x)


def bfloat16_to_float32(half: Num) -> Num:
    """uint16 bits of bfloat16 as float32, exact."""
    return (half.widened(32) << 16).as_float(ir.FloatType())


def float32_to_bfloat16(x: Num) -> Num:
    """Bits of the nearest bfloat16, ties to even; NaN stays a (quiet) NaN."""
    bits = x.bits()
    rounded = (bits + ((bits >> 16) & 1) + 0x7FFF) >> 16
    quiet = (bits >> 16) | 0x40
    number = x.equals(x)
    return rounded.where(number, quiet).narrowed(16)


def float16_to_float32(half: Num) -> Num:
    """uint16 bits of float16 as float32, exact, also for subnormal numbers."""
    bits = half.widened(32)
    magnitude = (bits & 0x7FFF) << 13
    # The product shifts the exponent's bias by 127 - 15, and normalises subnormals.
    finite = (magnitude.as_float(ir.FloatType()) * 2.0**112).bits()
    special = magnitude | 0x7F800000
    value = special.where(magnitude >= 0x7C00 << 13, finite)
    return (value | ((bits & 0x8000) << 16)).as_float(ir.FloatType())


def float32_to_float16(x: Num) -> Num:
    """Bits of the nearest float16, ties to even; overflow to infinity, NaN stays NaN."""
    bits = x.bits()
    sign = (bits >> 16) & 0x8000
    magnitude = bits & 0x7FFFFFFF
    rounded = (magnitude - ((127 - 15) << 23) + 0xFFF + ((magnitude >> 13) & 1)) >> 13
    # Adding 0.5 leaves the multiple of 2^-24 nearest to a subnormal result in the low bits.
    shifted = magnitude.as_float(ir.FloatType()) + 0.5
    subnormal = shifted.bits() - 0x3F000000
    special = magnitude.like(0x7E00).where(magnitude > 0x7F800000, 0x7C00)
    value = subnormal.where(magnitude < (127 - 14) << 23, rounded)
    # 65520 is the first number that rounds to infinity.
    value = special.where(magnitude >= 0x477FF000, value)
    return (value | sign).narrowed(16)


def transpose(rows: list[Num]) -> list[Num]:
    """Columns of a square tile, given its rows: as many as there are lanes."""
    width, element_bytes = len(rows), itemsize(rows[0].element)
    block = min(width, _SUBLANE_BYTES // element_bytes)
    # Within 128 bits: 1, then 2, ... elements of two rows interleave.
    for start in range(0, width, block):
        group = rows[start : start + block]
        step = 1
        while step < block:
            group = _interleaved(group, step, block)
            step *= 2
        rows = rows[:start] + group + rows[start + block :]
    # Then whole 128-bit blocks change places across the diagonal, 1, 2, ... blocks at a time.
    step = block
    while step < width:
        rows = _exchanged(rows, step)
        step *= 2
    return rows


def _interleaved(group: list[Num], step: int, block: int) -> list[Num]:
    """One round of the interleaving that transposes each 128-bit block of `block` rows.

    Before it, row r holds columns of `step` rows; rows r and r + step join.
    """
    width = group[0].count
    result: list[Num] = [group[0]] * block
    for first in range(0, block, 2 * step):
        for r in range(step):
            a, b = group[first + r], group[first + step + r]
            for half in range(2):
                order = []
                for lane in range(0, width, block):
                    for unit in range(half * block // 2, (half + 1) * block // 2, step):
                        order += [lane + unit + i for i in range(step)]
                        order += [width + lane + unit + i for i in range(step)]
                result[first + 2 * r + half] = a.shuffled(b, order)
    return result


def _exchanged(rows: list[Num], step: int) -> list[Num]:
    """Swap the off-diagonal blocks of `step` elements in each block of 2 * step."""
    width = len(rows)
    result = list(rows)
    for r in range(width):
        if r & step:
            continue
        a, b = rows[r], rows[r + step]
        upper = [lane if not lane & step else width + lane - step for lane in range(width)]
        lower = [lane + step if not lane & step else width + lane for lane in range(width)]
        result[r], result[r + step] = a.shuffled(b, upper), a.shuffled(b, lower)
    return result
