"""Mask kinds, one by one, against their meaning key by key."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import Call, calls

import fastattn
from fastattn import masks
from fastattn._normalise import normalise
from fastattn._spec import Band

sides = st.none() | st.integers(0, 9)
bands = st.builds(Band, sides, sides)


def _sees(band: Band, i: int, j: int, offset: int) -> bool:
    p = i + offset
    return (band.left is None or j >= p - band.left) and (band.right is None or j <= p + band.right)


@given(
    band=bands,
    offsets=st.lists(st.integers(-9, 9), max_size=3),
    lengths=st.tuples(*[st.integers(0, 9)] * 2),
)
def test_band(band: Band, offsets: list[int], lengths: tuple[int, int]) -> None:
    """Every key of every query of every batch entry."""
    seen = band.visible(np.array(offsets, np.int64), *lengths)
    assert seen.shape == (len(offsets), 1, *lengths)
    for b, i, j in np.ndindex(len(offsets), *lengths):
        assert seen[b, 0, i, j] == _sees(band, i, j, offsets[b])


@given(first=bands, second=bands)
def test_band_and_band(first: Band, second: Band) -> None:
    """What both see; the order does not matter."""
    both = first & second
    assert both == second & first
    for j in range(-12, 13):
        assert _sees(both, 0, j, 0) == (_sees(first, 0, j, 0) and _sees(second, 0, j, 0))
    assert first & Band() == first
    assert first.limited == (first != Band())


def _problem(**changes: Any) -> Any:
    spec = {"causal": False, "window": None, "length_q": 3, "length_k": 5}
    problem = {"mask": None, "offsets": None, "lengths": None}
    spec |= {name: value for name, value in changes.items() if name in spec}
    problem |= {name: value for name, value in changes.items() if name in problem}
    return SimpleNamespace(spec=SimpleNamespace(**spec), **problem)


def test_nothing_hides_nothing() -> None:
    """No mask at all: no array is made."""
    problem = _problem()
    assert masks.visible(problem) is None
    assert masks.band(problem.spec) == Band()


@pytest.mark.parametrize(
    ("changes", "picture"),
    [
        ({"causal": True, "offsets": np.array(0)}, "1.... 11... 111.."),
        ({"causal": True, "offsets": np.array(2)}, "111.. 1111. 11111"),
        ({"causal": True, "offsets": np.array(-1)}, "..... 1.... 11..."),
        ({"window": (1, 0), "offsets": np.array(2)}, ".11.. ..11. ...11"),
        ({"window": (None, 1), "offsets": np.array(0)}, "11... 111.. 1111."),
        ({"window": (0, None), "offsets": np.array(1)}, ".1111 ..111 ...11"),
        ({"window": (None, None), "offsets": np.array(0)}, "11111 11111 11111"),
        ({"window": (1, 1), "causal": True, "offsets": np.array(1)}, "11... .11.. ..11."),
        ({"lengths": np.array(2)}, "11... 11... 11..."),
        ({"lengths": np.array(0)}, "..... ..... ....."),
        ({"lengths": np.array(2), "causal": True, "offsets": np.array(0)}, "1.... 11... 11..."),
        ({"mask": np.eye(3, 5, dtype=bool)[None]}, "1.... .1... ..1.."),
        (
            {"mask": np.where(np.eye(3, 5), np.finfo("f4").min, -np.inf)[None]},
            "1.... .1... ..1..",
        ),
        ({"mask": np.full((1, 3, 5), np.nan)}, "11111 11111 11111"),
    ],
)
def test_pictures(changes: dict[str, Any], picture: str) -> None:
    """Each kind, drawn: rows are queries, 1 is a key that is seen."""
    seen = masks.visible(_problem(**changes))
    assert seen is not None
    seen = np.broadcast_to(seen, (1, 3, 5))[0]
    rows = ["".join("1" if key else "." for key in row) for row in seen]
    assert " ".join(rows) == picture


@pytest.mark.parametrize(
    ("align", "drawn"), [("top_left", "100001100011100"), ("bottom_right", "111001111011111")]
)
def test_alignment_as_drawn_in_the_docstring(target: Any, align: str, drawn: str) -> None:
    """The weights of a causal call are where `attention`'s picture shows them."""
    q, k = np.zeros((3, 1), np.float32), np.zeros((5, 1), np.float32)
    weights = target.attention(q, k, np.eye(5, dtype=np.float32), causal=True, align=align)
    assert "".join("1" if weight else "0" for weight in weights.ravel()) == drawn
    rows = [drawn[i : i + 5] for i in (0, 5, 10)]
    text = fastattn.attention.__doc__ or ""
    assert all(" ".join(row) in text for row in rows)


@given(call=calls(), handled=st.sets(st.sampled_from([kind.NAME for kind in masks.KINDS])))
def test_lowered(call: Call, handled: set[str]) -> None:
    """The same keys are visible, and a floating mask keeps its numbers at them."""
    problem = normalise(*call.arrays, **call.arguments)
    kinds = frozenset(handled)
    lowered = masks.lowered(problem, kinds)
    assert set(lowered.spec.masks) <= kinds | {"dense"}
    assert (lowered is problem) == kinds.issuperset(problem.spec.masks)
    shape = problem.spec.scores_shape
    before, after = (
        np.broadcast_to(True if seen is None else seen, shape)
        for seen in map(masks.visible, (problem, lowered))
    )
    np.testing.assert_array_equal(before, after)
    if problem.mask is not None:
        assert lowered.mask is not None and lowered.mask.dtype == problem.mask.dtype
        np.testing.assert_array_equal(lowered.mask[after], problem.mask[after])
