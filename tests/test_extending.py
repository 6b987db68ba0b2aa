"""A new mask kind and a new implementation are one file and one row each.

Both live in the tests alone: `toy_segments` and `toy_implementation`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import oracle
import pytest
import toy_implementation
import toy_segments
from hypothesis import given
from hypothesis import strategies as st
from strategies import FEATURES, Call, calls
from targets import Target

import fastattn
from fastattn import _plan, masks
from fastattn._normalise import normalise
from fastattn.implementations import REGISTRY, unsupported

F32 = np.float32


@pytest.fixture(scope="module")
def segments() -> Iterator[None]:
    """The toy kind's row in `KINDS`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "KINDS", (*masks.KINDS, toy_segments))
        yield


@pytest.fixture
def toy() -> Iterator[None]:
    """The toy implementation's row in `REGISTRY`, before all others."""
    rows = dict(REGISTRY)
    REGISTRY.clear()
    REGISTRY.update({"toy": "toy_implementation", **rows})
    _plan._plan.cache_clear()
    yield
    REGISTRY.clear()
    REGISTRY.update(rows)
    _plan._plan.cache_clear()


def _with(mask: np.ndarray | None, visible: np.ndarray) -> np.ndarray:
    """A dense mask that also masks what is not `visible`."""
    if mask is None or mask.dtype == bool:
        return visible if mask is None else mask & visible
    return np.where(visible, mask, mask.dtype.type(-np.inf))


@given(data=st.data(), call=calls(features=tuple(set(FEATURES) - {"out"})))
def test_a_mask_kind_works_everywhere(
    segments: None, target: Target, data: st.DataObject, call: Call
) -> None:
    """Beside every other feature: the bits of the dense mask that it stands for, and right."""
    q, k, _ = call.arrays
    target.require(q.dtype)
    batch = np.broadcast_shapes(*(x.shape[:-3] for x in call.arrays))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    ids_q, ids_k = (rng.integers(0, 3, size=(*batch, x.shape[-2])) for x in (q, k))
    seen = ids_q[..., :, None] == ids_k[..., None, :]
    dense = _with(call.arguments.get("mask"), seen if q.ndim == 2 else seen[..., None, :, :])

    problem = normalise(
        *call.arrays,
        **call.arguments,
        return_lse=True,
        further_masks={"segments": (ids_q, ids_k)},
    )
    config = target.config(**call.tunables)
    _plan.plan(problem.spec, target.impl, config).run(problem)

    arguments = {**call.arguments, "mask": dense}
    out, lse = target.both(*call.arrays, tunables=call.tunables, **arguments)
    np.testing.assert_array_equal(problem.out, out)
    np.testing.assert_array_equal(problem.lse, lse)
    oracle.assert_agrees((problem.out, problem.lse), *call.arrays, **arguments)


def test_a_mask_kind_explains_and_refuses(segments: None) -> None:
    """In its place among the kinds; a bad operand is refused before anything is computed."""
    x = np.zeros((2, 3, 4), F32)
    problem = normalise(x, x, x, causal=True, further_masks={"segments": ([1, 1, 2], 1)})
    assert _plan.explain_plan(problem.spec, "auto", None).masks == ("causal", "segments")
    with pytest.raises(fastattn.ShapeError, match="`segments`.*Fix"):
        normalise(x, x, x, further_masks={"segments": ([1, 2], 1)})


@given(call=calls(features=tuple(set(FEATURES) - {"sinks", "out"}), dtypes=("float32",)))
def test_an_implementation_reads_only_its_mask_kinds(call: Call) -> None:
    """Every other kind reaches it in a dense mask: nothing is ignored."""
    problem = normalise(*call.arrays, **call.arguments, return_lse=True)
    spec = masks.lowered_spec(problem.spec, toy_implementation.MASKS)
    run = toy_implementation.prepare(spec, fastattn.Config())
    run(masks.lowered(problem, toy_implementation.MASKS))
    oracle.assert_agrees((problem.out, problem.lse), *call.arrays, **call.arguments)


def _explain(**arguments: Any) -> fastattn.Explanation:
    x = np.ones((2, 3, 4), arguments.pop("dtype", F32))
    return fastattn.explain(x, x, x, **arguments)


DECLINED = [
    ({"sinks": np.zeros(2, F32)}, "no kernel with sinks"),
    ({"dtype": np.float64}, "no kernel for float64"),
]


def test_auto_takes_the_first_that_supports_the_call(toy: None) -> None:
    """The new one, also for masks that it does not read."""
    explained = _explain(causal=True, window=(1, 0), kv_lengths=2)
    assert explained.impl == "toy"
    assert explained.reasons == {"impl": "auto: the first choice", "threads": "one is enough"}
    assert explained.masks == ("causal", "window (1, 0)", "kv_lengths")
    x = np.random.default_rng(0).standard_normal((2, 3, 4), F32)
    arguments = {"causal": True, "window": (1, 0), "kv_lengths": 2}
    out = fastattn.attention(x, x, x, **arguments)
    oracle.assert_agrees((out, None), x, x, x, **arguments)


@pytest.mark.parametrize(("arguments", "reason"), DECLINED, ids=["sinks", "dtype"])
def test_a_declined_call_falls_through(toy: None, arguments: dict[str, Any], reason: str) -> None:
    """To the next that supports it; the explanation says why."""
    explained = _explain(**arguments)
    assert explained.impl in list(REGISTRY)[1:]
    assert f"toy does not compute this call ({reason})" in explained.reasons["impl"]


@pytest.mark.parametrize(("arguments", "reason"), DECLINED, ids=["sinks", "dtype"])
def test_a_declined_call_is_refused_by_name(
    toy: None, arguments: dict[str, Any], reason: str
) -> None:
    """``impl="toy"`` computes nothing else in its place."""
    with pytest.raises(fastattn.UnavailableError, match=f"`impl`.*'toy'.*{reason}"):
        _explain(**arguments, impl="toy")


def test_an_implementation_without_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cannot be given a lowered one either."""
    monkeypatch.setattr(toy_implementation, "MASKS", frozenset())
    x = np.ones((2, 3, 4), F32)
    plain, causal = (normalise(x, x, x, causal=flag).spec for flag in (False, True))
    assert unsupported(toy_implementation, plain) is None
    assert unsupported(toy_implementation, causal) == "it takes no mask of kind dense"
