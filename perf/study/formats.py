"""Numbers as text."""

from __future__ import annotations

import math

from benchmarks.common import IMPLS
from perf import report
from perf.summary import Estimate

NAMES = {
    "numpy": "NumPy",
    "numba": "Numba",
    "cython": "Cython",
    "torch-sdpa": "torch SDPA",
    "torch-hand": "torch, by hand",
    "torch-mha": "torch MultiheadAttention",
}
assert set(IMPLS) <= set(NAMES)
SHORT = {"torch-sdpa": "SDPA", "torch-hand": "by hand", "torch-mha": "MultiheadAttention"}
NOTHING = "–"
SPACE = "\u00a0"  # before a unit, so that a number and its unit stay on one line


def seconds(value: Estimate | None) -> str:
    """A time with three digits and a unit."""
    return NOTHING if value is None else report.seconds(value.median).replace(" ", SPACE)


def times(value: Estimate | float | None) -> str:
    """A ratio: ``2.41×``."""
    number = value.median if isinstance(value, Estimate) else value
    if number is None or math.isnan(number):
        return NOTHING
    return f"{number:.2f}×" if number < 9.995 else f"{number:.1f}×"


def interval(value: Estimate | None) -> str:
    """Interval of a ratio: ``2.38 to 2.44``."""
    return NOTHING if value is None else f"{value.low:.2f} to {value.high:.2f}"


def percent(value: Estimate | float | None) -> str:
    """A percentage with one decimal."""
    number = value.median if isinstance(value, Estimate) else value
    return NOTHING if number is None else f"{100 * number:.1f}{SPACE}%"


def dtype(name: str) -> str:
    """As the study wrote it: f32."""
    return name.replace("bfloat", "bf").replace("float", "f")


def listed(items: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def plural(number: int, word: str) -> str:
    """``1 dim``, ``2 dims``, ``2 processes``."""
    ending = "" if number == 1 else "es" if word.endswith("s") else "s"
    return f"{number} {word}{ending}"
