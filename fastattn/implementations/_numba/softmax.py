"""The online softmax of a panel, and the exponential.

Plain loops over a panel's lanes, for LLVM to vectorise: a branch is a choice between two values.
Products may be contracted with sums; no other fast-math flag is set: infinity and NaN are data.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numba import types
from numba.extending import overload

from fastattn.implementations._numba.tile import PANEL_VECTORS, REGISTER_BYTES, helper, item_bytes

_njit = functools.partial(helper, fastmath={"contract"})


def _horner(higher, coefficient):
    """One step of Horner's rule, ``higher(r) * r + coefficient``, compiled."""
    if higher is None:
        return _njit(lambda r: coefficient)
    return _njit(lambda r: higher(r) * r + coefficient)


def _split_exp(x):
    """``e^r - 1`` and ``2^n`` with ``x = n ln 2 + r``; ``2^n`` is 0 where e^x is subnormal."""
    raise NotImplementedError


@overload(_split_exp, jit_options={"fastmath": {"contract"}})
def _typed_split_exp(x):
    # ln2_high * n is exact for each exponent n (Cody and Waite, 1980); adding `magic` leaves the
    # nearest whole number in the low bits.  `terms` are of (e^r - 1 - r) / r^2, |r| <= ln 2 / 2.
    if x == types.float32:
        real, word, bias, fraction, lowest = np.float32, np.int32, 127, 23, -87.3365
        ln2_high, ln2_low = 0.693359375, -2.12194440e-4
        # Interpolated at the Chebyshev points: 1.0e-8 off at most.
        terms = [0.0013926183586701981, 0.0083631790527194, 0.04166655461721519]
        terms += [0.16666576989698803, 0.5]
    else:
        real, word, bias, fraction, lowest = np.float64, np.int64, 1023, 52, -708.396
        ln2_high, ln2_low = 6.93145751953125e-1, 1.42860682030941723212e-6
        # Taylor's series to r^13: (ln 2 / 2)^14 / 14! = 4e-18 off at most.
        terms = [1 / math.factorial(k) for k in range(13, 1, -1)]
    lowest, ln2_high, ln2_low = real(lowest), real(ln2_high), real(ln2_low)
    per_ln2, magic = real(1 / math.log(2)), real(1.5 * 2.0**fraction)
    series = functools.reduce(_horner, [real(term) for term in terms], None)

    def typed(x):
        limited = lowest if x < lowest else x
        shifted = real(limited * per_ln2 + magic)
        n = shifted - magic
        r = (limited - n * ln2_high) - n * ln2_low
        power = word((shifted.view(word) + bias) << fraction).view(real)
        return series(r) * (r * r) + r, real(0.0) if x < lowest else power

    return typed


@_njit
def exp(x):
    """``e^x`` within 2 ULP for x up to 88, exactly 1 for 0; NaN for NaN."""
    minus_one, power = _split_exp(x)
    return minus_one * power + power


@_njit
def cap(panel, softcap):
    """Scores s become ``softcap * tanh(s / softcap)``, from e^2x - 1: small ones stay accurate."""
    scores, most = panel.reshape(-1), panel.dtype.type(40)
    for i in range(scores.size):
        twice = panel.dtype.type((scores[i] + scores[i]) / softcap)
        twice = most if twice > most else -most if twice < -most else twice
        minus_one, power = _split_exp(twice)
        numerator = minus_one * power + (power - 1)
        scores[i] = numerator / (numerator + 2) * softcap


@_njit
def softmax(panel, m, l, alpha, shift, total):
    """Scores (key, lane) become weights; m and l are brought up to date, the others filled.

    The number of keys is a multiple of 4; m has the lanes that are in use.  LLVM vectorises a loop
    over the lanes only if their number is not a constant.
    """
    lanes, width = len(m), PANEL_VECTORS * (REGISTER_BYTES // item_bytes(panel))
    fours = panel.reshape((len(panel) // 4, 4 * width))
    for i in range(lanes):
        shift[i], total[i] = m[i], 0.0
    for j in range(len(fours)):  # each maximum waits for the one before
        for i in range(lanes):
            x, y = fours[j, i], fours[j, i + width]
            z, w = fours[j, i + 2 * width], fours[j, i + 3 * width]
            x, z = x if x > y else y, z if z > w else w
            x = x if x > z else z
            shift[i] = x if x > shift[i] else shift[i]
    for i in range(lanes):
        before, m[i] = m[i], shift[i]
        # exp(-inf - 0) = 0 where nothing is visible.
        shift[i] = shift[i] if shift[i] > -np.inf else 0.0
        alpha[i] = exp(before - shift[i])
    for j in range(len(panel)):
        for i in range(lanes):
            panel[j, i] = exp(panel[j, i] - shift[i])
            total[i] += panel[j, i]
    for i in range(lanes):
        l[i] = l[i] * alpha[i] + total[i]
