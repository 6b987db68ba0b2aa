"""`normalise`: what a call is brought into, and what it accepts."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from strategies import Call, calls

import fastattn
from fastattn import _shapes
from fastattn._normalise import normalise
from fastattn._shapes import SPECS
from fastattn._spec import CallSpec

F32 = np.float32


def _arrays(*batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        np.zeros((*batch, 4, 3, 8), F32),
        np.zeros((*batch, 2, 5, 8), F32),
        np.zeros((*batch, 2, 5, 6), F32),
    )


@given(call=calls())
def test_nothing_is_copied(call: Call) -> None:
    """Arrays are the caller's own; the rest is broadcast to its full shape."""
    q, k, v = call.arrays
    problem = normalise(q, k, v, return_lse=True, **call.arguments)
    g = problem.spec
    assert problem.q is q
    assert problem.k is k
    assert problem.v is v
    if (mask := call.arguments.get("mask")) is not None:
        assert problem.mask.shape == (*g.batch_shape, g.heads_q, g.length_q, g.length_k)
        assert not mask.size or np.may_share_memory(problem.mask, mask) or not problem.mask.size
    for name in ("q", "k", "v", "out", "lse"):
        full = problem.full(name)
        heads = g.heads_kv if name in "kv" else g.heads_q
        assert full.shape[: len(g.batch_shape) + 1] == (*g.batch_shape, heads)
        assert full.size == 0 or np.may_share_memory(full, getattr(problem, name))
    assert problem.out.shape == g.out_shape
    assert problem.lse.shape == g.lse_shape == g.out_shape[:-1]
    assert (problem.offsets is not None) == g.band.limited
    for array in (problem.offsets, problem.lengths):
        assert array is None or (array.dtype == np.int64 and array.shape == g.batch_shape)


def test_spec() -> None:
    """Static facts, in the field's names."""
    g = normalise(*_arrays(3, 7), causal=True, align=0).spec
    assert (g.batch, g.batch_shape, g.heads_q, g.heads_kv, g.group) == (21, (3, 7), 4, 2, 2)
    assert (g.length_q, g.length_k, g.dim, g.dim_v) == (3, 5, 8, 6)
    assert g.scale == 1 / np.sqrt(8)
    assert g.multiply_adds == 21 * 4 * 3 * 5 * (8 + 6)
    assert g.out_shape == (3, 7, 4, 3, 6)
    assert g.lse_shape == (3, 7, 4, 3)
    assert not g.two_dimensional


def test_spec_of_two_dimensions() -> None:
    """One head, no head axis."""
    g = normalise(*(a[0] for a in _arrays())).spec
    assert (g.batch, g.heads_q, g.heads_kv, g.two_dimensional) == (1, 1, 1, True)
    assert g.out_shape == (3, 6)
    assert g.lse_shape == (3,)


def test_equal_calls_share_their_spec() -> None:
    """Found by value: other arrays of the same shapes, the same object."""
    first = normalise(*_arrays(2), softcap=2, scale=1)
    assert first.spec is normalise(*_arrays(2), softcap=2.0, scale=1.0).spec
    assert first.spec is not normalise(*_arrays(2), softcap=3.0, scale=1.0).spec
    assert first.spec is not normalise(*_arrays(3), softcap=2.0, scale=1.0).spec


def test_flags_of_numpy_are_flags() -> None:
    """As good as Python's own, and the same spec."""
    x = np.zeros((3, 4), F32)
    plain = normalise(x, x, x, causal=False)
    same = normalise(x, x, x, causal=np.False_, return_lse=np.False_)
    assert same.spec is plain.spec
    assert same.lse is None and same.offsets is None
    causal = normalise(x, x, x, causal=True, return_lse=True)
    same = normalise(x, x, x, causal=np.True_, return_lse=np.True_)
    assert same.spec is causal.spec is not plain.spec
    assert same.lse is not None and same.offsets is not None


_SQUARE = np.random.default_rng(0).standard_normal((4, 2, 2, 5, 8)).astype(F32)


@pytest.mark.parametrize(
    "option",
    [
        {"causal": True},
        {"window": (1, 0)},
        {"causal": True, "align": 1},
        {"scale": 0.25},
        {"scale": -1},
        {"softcap": 0.5},
        {"kv_lengths": 2},
        {"mask": np.tri(5, dtype=bool)},
        {"sinks": np.array([1, 2], F32)},
    ],
    ids=str,
)
def test_no_call_is_taken_for_another(target: Any, option: dict[str, Any]) -> None:
    """Calls in turns, alike but for one option or for the numbers in their arrays."""
    first, second = _SQUARE[:3], _SQUARE[1:]
    alone = []
    for arrays in (first, second):
        for arguments in ({}, option):
            SPECS.clear()
            alone.append(target.attention(*arrays, **arguments))
    turns = [
        target.attention(*arrays, **arguments)
        for arrays in (first, second)
        for arguments in ({}, option)
    ]
    np.testing.assert_array_equal(turns, alone)
    assert all((a != b).any() for i, a in enumerate(turns) for b in turns[:i])


def test_no_array_is_kept(target: Any) -> None:
    """What is remembered between calls holds none of a call's arrays."""
    arrays = [x.copy() for x in (*_SQUARE[:3], _SQUARE[3, :, :, :, :5])]
    extra = {
        "kv_lengths": np.array([5, 3]),
        "align": np.array([0, 1]),
        "sinks": np.zeros(2, F32),
        "out": np.empty_like(arrays[0]),
    }
    q, k, v, mask = arrays
    out, lse = target.attention(q, k, v, mask=mask, causal=True, return_lse=True, **extra)
    references = [weakref.ref(x) for x in (*arrays, *extra.values(), out, lse)]
    references.append(weakref.ref(target.attention(q, k, v)))
    del arrays, extra, q, k, v, mask, out, lse
    gc.collect()
    assert [reference() for reference in references] == [None] * len(references)


def test_specs_are_forgotten_when_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """And are found anew by who needs them."""
    monkeypatch.setattr(_shapes, "_REMEMBERED", 4)
    SPECS.clear()
    for _ in range(2):
        for length in range(1, 10):
            x = np.zeros((length, 4), F32)
            assert normalise(x, x, x).spec.length_q == length
            assert 1 <= len(SPECS) <= 4


def test_refused_calls_are_not_remembered() -> None:
    """They leave nothing behind."""
    SPECS.clear()
    x = np.zeros((3, 4), F32)
    for _ in range(2):
        with pytest.raises(fastattn.ShapeError):
            normalise(x, x[:, :2], x)
    assert not SPECS


def test_threads_share_a_spec() -> None:
    """Whoever is first: all that ask at once get the same object."""
    count = 8
    barrier = threading.Barrier(count)
    found: list[list[CallSpec]] = [[] for _ in range(count)]

    def work(mine: list[CallSpec]) -> None:
        for length in range(1, 60):
            x = np.zeros((length, 4), F32)
            barrier.wait()
            mine.append(normalise(x, x, x, softcap=length).spec)

    SPECS.clear()
    threads = [threading.Thread(target=work, args=(mine,)) for mine in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for same in zip(*found, strict=True):
        assert len(set(map(id, same))) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"align": "top_left"}, [0, 0]),
        ({"align": "bottom_right"}, [2, 2]),
        ({"align": "bottom_right", "kv_lengths": np.array([1, 5])}, [-2, 2]),
        ({"align": "top_left", "kv_lengths": np.array([1, 5])}, [0, 0]),
        ({"align": 4}, [4, 4]),
        ({"align": np.int8(-4)}, [-4, -4]),
        ({"align": [3, -1]}, [3, -1]),
        ({"align": np.array([3, 1], np.uint16)}, [3, 1]),
        ({"align": np.array([9]), "kv_lengths": 0}, [9, 9]),
        ({"align": 2**48 - 1}, [2**48 - 1] * 2),
    ],
)
def test_offsets(arguments: dict[str, Any], expected: list[int]) -> None:
    """Key position of query 0, for each batch entry."""
    problem = normalise(*_arrays(2), causal=True, **arguments)
    assert problem.offsets is not None
    assert problem.offsets.tolist() == expected
    assert normalise(*_arrays(2), **arguments).offsets is None


def test_no_alignment_is_needed_for_as_many_keys_as_queries() -> None:
    """All conventions agree there."""
    x = np.zeros((2, 5, 4), F32)
    for arguments in ({"causal": True}, {"window": (1, 1)}):
        assert normalise(x, x, x, **arguments).offsets.tolist() == 0


@pytest.mark.parametrize(
    "lengths", [3, np.uint8(3), [3, 5], np.array([3]), np.zeros((2,), np.int16)]
)
def test_lengths(lengths: Any) -> None:
    """One for all, or one for each batch entry, of any integer type."""
    problem = normalise(*_arrays(2), kv_lengths=lengths)
    assert problem.lengths is not None
    assert problem.lengths.tolist() == np.broadcast_to(lengths, (2,)).tolist()


@pytest.mark.parametrize("window", [(2**62, 2**62), (10**30, None), [None, 2**51]])
def test_window_wider_than_any_array(target: Any, window: Any) -> None:
    """Limits nothing, and overflows nothing."""
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 2, 5, 4)).astype(F32)
    got = target.attention(q, k, v, window=window, align=2**48 - 1)
    free = target.attention(q, k, v, window=(None, None))
    left = 2**48 - 1 + 5 if window[0] is not None else None
    assert left is None or left < window[0]
    np.testing.assert_array_equal(got, free)


@pytest.mark.parametrize("align", [2**48 - 1, -(2**48) + 1])
def test_alignment_far_outside(target: Any, align: int) -> None:
    """All keys before the query are seen, or none."""
    x = np.ones((2, 5, 4), F32)
    out = target.attention(x, x, x, causal=True, align=align)
    assert (out == (1 if align > 0 else 0)).all()
    out = target.attention(x, x, x, window=(3, 3), align=align)
    assert (out == 0).all()


@pytest.mark.parametrize(
    "shape",
    [(), (1,), (5,), (3, 1), (3, 5), (1, 1), (1, 3, 5), (4, 1, 1), (2, 1, 1, 5), (2, 4, 3, 5)],
)
def test_mask_shapes(target: Any, shape: tuple[int, ...]) -> None:
    """Whatever broadcasts to (B, Hq, Lq, Lk) is a mask."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(a.shape).astype(F32) for a in _arrays(2)]
    mask = np.asarray(rng.random(shape) < 0.6)
    whole = np.ascontiguousarray(np.broadcast_to(mask, (2, 4, 3, 5)))
    np.testing.assert_array_equal(
        target.attention(*arrays, mask=mask), target.attention(*arrays, mask=whole)
    )


def test_subclasses_and_read_only_inputs(target: Any, tmp_path: Path) -> None:
    """A matrix, a memory map and a read-only array are arrays."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 4)).astype(F32)
    expected = target.attention(x, x, x)
    mapped = np.memmap(tmp_path / "x", F32, "w+", shape=x.shape)
    mapped[...] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    got = target.attention(x.view(np.matrix), mapped, frozen)
    assert type(got) is np.ndarray
    np.testing.assert_array_equal(got, expected)
    out = np.memmap(tmp_path / "out", F32, "w+", shape=x.shape)
    target.attention(x, x, x, out=out)
    np.testing.assert_array_equal(out, expected)


def test_out_may_lie_between_the_inputs(target: Any) -> None:
    """Interleaved with an input, sharing no byte: accepted."""
    raw = np.random.default_rng(0).standard_normal((2, 5, 2, 4)).astype(F32)
    x, out = raw[:, :, 0], raw[:, :, 1]
    expected = target.attention(x.copy(), x.copy(), x.copy())
    assert target.attention(x, x, x, out=out) is out
    np.testing.assert_array_equal(out, expected)
