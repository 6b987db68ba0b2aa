"""Hypothesis strategies for whole calls, which shrink to tiny shapes.

Shapes, layouts and arguments are drawn; numbers come from a generator whose seed is
drawn, which is fast and shrinks well.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import layouts
import ml_dtypes
import numpy as np
from hypothesis import strategies as st

DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}

FEATURES = ("mask", "causal", "window", "kv_lengths", "softcap", "sinks", "scale", "align", "out")
"""What a call may have beside its arrays; each is drawn by itself."""

_WORK = 1_500_000  # multiply-adds of a drawn call: milliseconds


@dataclass(frozen=True, repr=False)
class Call:
    """Arguments of one call: `arrays` and `arguments` say what, the others only how."""

    arrays: tuple[np.ndarray, np.ndarray, np.ndarray]
    arguments: dict[str, Any] = field(default_factory=dict)
    tunables: dict[str, int] = field(default_factory=dict)
    out: layouts.Placed | None = None

    def __repr__(self) -> str:
        lines = [f"{n}={_describe(a)}" for n, a in zip("qkv", self.arrays, strict=True)]
        lines += [f"{name}={_describe(value)}" for name, value in self.arguments.items()]
        lines.append(f"tunables={self.tunables}")
        if self.out is not None:
            lines.append(f"out={_describe(self.out.view)}")
        return "Call(" + ", ".join(lines) + ")"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Let hypothesis print shapes and strides, not numbers."""
        printer.text(repr(self))


def _describe(value: Any) -> str:
    if not isinstance(value, np.ndarray) or value.ndim == 0:
        return repr(value)
    text = f"<{value.dtype} {value.shape} strides {value.strides}"
    return text + (f" {value.tolist()}>" if value.size <= 6 else ">")


def seeds() -> st.SearchStrategy[np.random.Generator]:
    """Generators of numbers."""
    return st.integers(0, 2**16).map(np.random.default_rng)


def lengths() -> st.SearchStrategy[int]:
    """Query and key counts: mostly small, some across block and panel boundaries."""
    return st.one_of(
        st.integers(0, 9), st.integers(0, 70), st.sampled_from([127, 128, 129, 193, 257, 400])
    )


def dims() -> st.SearchStrategy[int]:
    """D and Dv."""
    return st.one_of(st.integers(1, 9), st.integers(1, 40), st.sampled_from([64, 65, 128, 257]))


def tunables() -> st.SearchStrategy[dict[str, int]]:
    """Fields of `Config` that change how, and not what, is computed."""
    return st.fixed_dictionaries(
        {},
        optional={
            "block_q": st.sampled_from([1, 2, 5, 8, 16, 64]),
            "block_k": st.sampled_from([1, 3, 7, 8, 16, 33, 128]),
            "keys_per_split": st.sampled_from([1, 5, 16, 64, 200]),
            "threads": st.sampled_from([1, 2, 3]),
        },
    )


@st.composite
def placements(draw: st.DrawFn, *, result: bool = False) -> tuple[str, int]:
    """A layout and the axis it acts on."""
    names = layouts.NAMES[: -1 if result else None]
    return draw(st.sampled_from(names)), draw(st.integers(0, 4))


@st.composite
def calls(
    draw: st.DrawFn,
    *,
    dtypes: tuple[str, ...] = tuple(DTYPES),
    features: tuple[str, ...] = FEATURES,
    smallest: int = 0,
) -> Call:
    """A call.  `smallest` is the least of Lq, Lk and every batch axis."""
    dtype = DTYPES[draw(st.sampled_from(dtypes))]
    rng = draw(seeds())
    chosen = draw(st.sets(st.sampled_from(features))) if features else set()

    rank = draw(st.integers(2, 5))
    batch = tuple(draw(st.integers(smallest, 3)) for _ in range(rank - 3))
    heads_kv = draw(st.integers(1, 3)) if rank > 2 else 1
    heads = heads_kv * (draw(st.integers(1, 4)) if rank > 2 else 1)
    dim, dim_v = draw(dims()), draw(dims())
    length_q = max(smallest, draw(lengths()))
    length_k = length_q if draw(st.booleans()) else max(smallest, draw(lengths()))
    while (int(np.prod(batch)) or 1) * heads * length_q * length_k * (dim + dim_v) > _WORK:
        batch = tuple(min(n, 1) for n in batch)
        length_q, length_k = (length_q + 1) // 2, (length_k + 1) // 2

    sharpness = draw(st.sampled_from([1.0, 0.01, 6.0]))
    mean = draw(st.sampled_from([0.0, 3.0]))  # of v: values of one sign make the sum grow
    shapes = [(heads, length_q, dim), (heads_kv, length_k, dim), (heads_kv, length_k, dim_v)]
    arrays = []
    for tail, size, shift in zip(shapes, (sharpness, 1.0, 1.0), (0.0, 0.0, mean), strict=True):
        shape = tail[1:] if rank == 2 else (*_partial(draw, batch), *tail)
        layout, axis = draw(placements())
        if layout == "broadcast" and rank > 2:
            axis %= rank - 2  # sums of equal terms round all the same way: not here
        elif layout == "broadcast":
            layout = "contiguous"
        values = rng.standard_normal(shape) * size + shift
        arrays.append(layouts.filled(values, dtype, layout, axis))
    batch = np.broadcast_shapes(*(a.shape[:-3] for a in arrays))

    arguments: dict[str, Any] = {}
    scores = (length_q, length_k) if rank == 2 else (*batch, heads, length_q, length_k)
    if "mask" in chosen:
        arguments["mask"] = draw(_masks(scores, dtype, rng))
    if "causal" in chosen:
        arguments["causal"] = True
    if "window" in chosen:
        side = st.one_of(st.none(), st.integers(0, 12), st.just(10**6))
        arguments["window"] = draw(st.tuples(side, side))
    if "kv_lengths" in chosen:
        arguments["kv_lengths"] = _integers(draw, rng, batch, 0, length_k)
    banded = "causal" in arguments or "window" in arguments
    if "align" in chosen or (banded and length_q != length_k):
        kind = draw(st.sampled_from(["top_left", "bottom_right", "integers"]))
        limit = length_q + 2, length_k + 3
        arguments["align"] = (
            _integers(draw, rng, batch, -limit[0], limit[1]) if kind == "integers" else kind
        )
    if "softcap" in chosen:
        arguments["softcap"] = draw(st.sampled_from([5.0, 0.5, 50.0]))
    if "scale" in chosen:
        arguments["scale"] = draw(st.sampled_from([1.0, -0.3, 0.0, 0.05, 3.0]))
    if "sinks" in chosen:
        kind = dtype if draw(st.booleans()) else DTYPES["float32"]
        values = rng.standard_normal(heads) * draw(st.sampled_from([1.0, 10.0, 100.0]))
        arguments["sinks"] = layouts.filled(
            values, kind, draw(st.sampled_from(["contiguous", "stepped", "unaligned"]))
        )
    out = None
    if "out" in chosen:
        out = layouts.place((*scores[:-1], dim_v), dtype, *draw(placements(result=True)))
    how = draw(tunables())
    if length_k > 32 * how.get("block_k", length_k):
        how["block_k"] = 16  # each step of the online softmax rounds: no bound holds for 400
    if length_k > 32 * how.get("keys_per_split", length_k):
        how["keys_per_split"] = 16
    return Call((arrays[0], arrays[1], arrays[2]), arguments, how, out)


def _partial(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that broadcasts to `shape`, and to all of it if nothing is drawn."""
    how = draw(st.sampled_from(["all", "ones", "fewer"]))
    if how == "fewer":
        return shape[draw(st.integers(0, len(shape))) :]
    return tuple(1 if how == "ones" and draw(st.booleans()) else n for n in shape)


def _integers(
    draw: st.DrawFn, rng: np.random.Generator, batch: tuple[int, ...], low: int, high: int
) -> Any:
    if draw(st.booleans()):
        return draw(st.integers(low, high))
    kind = draw(st.sampled_from([np.int64, np.int32, np.int16]))
    return rng.integers(low, high, size=_partial(draw, batch), endpoint=True).astype(kind)


@st.composite
def _masks(
    draw: st.DrawFn, scores: tuple[int, ...], dtype: np.dtype, rng: np.random.Generator
) -> np.ndarray:
    shape = _partial(draw, scores)
    kind = draw(st.sampled_from(["bool", "own", "float32"]))
    share = draw(st.sampled_from([0.5, 0.9, 0.1, 0.0, 1.0]))
    shown = rng.random(shape) < share
    if kind == "bool":
        return layouts.filled(np.asarray(shown), np.dtype(bool), *draw(placements()))
    values = np.asarray(rng.standard_normal(shape) * 2)
    if draw(st.booleans()):
        values = np.where(shown, values, -np.inf)
    mask_dtype = dtype if kind == "own" else DTYPES["float32"]
    return layouts.filled(values, mask_dtype, *draw(placements()))
