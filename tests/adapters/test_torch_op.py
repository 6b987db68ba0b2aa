"""The op `fastattn.torch.attention`."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import run_python
from strategies import DTYPES, FEATURES, Call, calls

import fastattn

torch = pytest.importorskip("torch")
from tensors import normal, qkv, tensor  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import fastattn.torch as adapter  # noqa: E402
from fastattn._interop import from_torch  # noqa: E402
from fastattn.torch import _compute, _op  # noqa: E402

OPS = torch.ops.fastattn.attention.default, torch.ops.fastattn.attention_with_lse.default
dtypes = pytest.mark.parametrize("dtype", DTYPES)


@dtypes
@settings(max_examples=25)
@given(data=st.data())
def test_the_op_is_the_call(dtype: str, data: st.DataObject) -> None:
    """Bit for bit `fastattn.attention`, for any call but `out`."""
    features = tuple(name for name in FEATURES if name != "out")
    call: Call = data.draw(calls(dtypes=(dtype,), features=features))
    arguments: dict[str, Any] = call.arguments | {"config": fastattn.Config(**call.tunables)}
    theirs = {
        name: tensor(value) if isinstance(value, np.ndarray) else value
        for name, value in arguments.items()
    }
    tensors = [tensor(array) for array in call.arrays]
    expected = fastattn.attention(*call.arrays, return_lse=True, **arguments)
    found = adapter.attention(*tensors, return_lse=True, **theirs)
    for mine, other in zip(
        (*found, adapter.attention(*tensors, **theirs)), (*expected, expected[0]), strict=True
    ):
        assert from_torch(mine).dtype == other.dtype
        np.testing.assert_array_equal(from_torch(mine), other)


@pytest.mark.parametrize("op", OPS, ids=str)
def test_opcheck(op: Any) -> None:
    """Schema, fake kernel, autograd and tracing, by torch's own checks."""
    q, k, v = qkv(dim_v=5)
    for tensors, options in (
        ((q, k, v), {}),
        (
            (q, k, v, normal(7, 9), normal(4), torch.tensor([3, 9]), torch.tensor([0, 1])),
            {"causal": True, "softcap": 3.0, "left": 4},
        ),
        ((q[0, 0], k[0, 0], v[0, 0]), {"length": 4, "position": 1, "right": 2}),
        (tuple(x.bfloat16() for x in (q, k, v)), {"impl": "numpy"}),
    ):
        results = torch.library.opcheck(op, tensors, options)
        assert set(results.values()) == {"SUCCESS"}, results


def test_autocast() -> None:
    """As torch's own attention: to the context's type, float64 left alone."""
    q, k, v = qkv()
    mask = torch.zeros(7, 9, dtype=torch.float16)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            out, lse = adapter.attention(q, k.half(), v, mask=mask, return_lse=True)
        assert (out.dtype, lse.dtype) == (dtype, torch.float32)
        assert torch.equal(out, adapter.attention(q.to(dtype), k.half().to(dtype), v.to(dtype)))
    with torch.autocast("cpu"):
        assert adapter.attention(q.double(), k.double(), v.double()).dtype == torch.float64


# Shapes of arguments, with vmap's axis of 3, and where it is; None: the same for all.
VMAPS: dict[str, dict[str, tuple[tuple[int, ...], int | None]]] = {
    "all": {"q": ((3, 2, 4, 7, 8), 0), "k": ((3, 2, 2, 9, 8), 0), "v": ((3, 2, 2, 9, 5), 0)},
    "inner axes": {"q": ((2, 3, 4, 7, 8), 1), "k": ((2, 2, 9, 8), None), "v": ((2, 9, 5, 3), -1)},
    "2-D": {"q": ((3, 7, 8), 0), "k": ((9, 8), None), "v": ((9, 3, 5), 1), "mask": ((3, 7, 9), 0)},
    "2-D, mask only": {
        "q": ((7, 8), None),
        "k": ((9, 8), None),
        "v": ((9, 5), None),
        "mask": ((3, 7, 9), 0),
    },
    "mask only": {
        "q": ((2, 4, 7, 8), None),
        "k": ((2, 2, 9, 8), None),
        "v": ((2, 2, 9, 5), None),
        "mask": ((3, 9), 0),
    },
    "fewer batch axes": {
        "q": ((3, 4, 7, 8), 0),
        "k": ((3, 5, 2, 9, 8), 0),
        "v": ((2, 9, 5), None),
        "sinks": ((4,), None),
    },
    "sinks": {
        "q": ((3, 2, 4, 7, 8), 0),
        "k": ((2, 2, 9, 8), None),
        "v": ((2, 2, 9, 5), None),
        "sinks": ((4, 3), 1),
    },
}


@pytest.mark.parametrize("name", VMAPS)
def test_vmap(name: str) -> None:
    """A loop over the axis gives the same bits."""
    tensors = {key: normal(*shape) for key, (shape, _) in VMAPS[name].items()}
    dims = {key: dim for key, (_, dim) in VMAPS[name].items()}
    if name == "all":
        tensors["kv_lengths"] = torch.tensor([[3, 4], [1, 2], [9, 9]])
        tensors["align"] = torch.tensor([0, 1])
        dims |= {"kv_lengths": 0, "align": None}
    common = {} if "align" in tensors else {"align": "top_left"}

    def call(return_lse: bool, *values: Any) -> Any:
        arguments = dict(zip(tensors, values, strict=True))
        return adapter.attention(causal=True, return_lse=return_lse, **arguments, **common)

    for return_lse in (False, True):
        found = torch.vmap(call, (None, *dims.values()))(return_lse, *tensors.values())
        slices = [
            [x if dims[key] is None else x.select(dims[key], i) for key, x in tensors.items()]
            for i in range(3)
        ]
        each = [call(return_lse, *values) for values in slices]
        if return_lse:
            expected = tuple(torch.stack(column) for column in zip(*each, strict=True))
        else:
            expected = torch.stack(each)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_what_the_op_refuses() -> None:
    """Gradients, by whatever way they are wanted; other devices; what the call refuses."""
    q, k, v = qkv()
    wanted = q.clone().requires_grad_()
    for call in (
        lambda: adapter.attention(wanted, k, v),
        lambda: OPS[0](wanted, k, v),
        lambda: adapter.attention(q, k, v, sinks=torch.zeros(4, requires_grad=True)),
        lambda: torch.func.grad(lambda x: adapter.attention(x, k, v).sum())(q),
        lambda: torch.func.jvp(lambda x: adapter.attention(x, k, v), (q,), (q,)),
    ):
        with pytest.raises(fastattn.DTypeError, match=r"gradients.*Fix: .*detach\(\)"):
            call()
    with torch.no_grad():
        assert torch.equal(adapter.attention(wanted, k, v), adapter.attention(q, k, v))
    with pytest.raises(fastattn.ArgumentError, match="align"):
        adapter.attention(q, k, v, causal=True)
    with pytest.raises(fastattn.DTypeError, match="cpu"):
        torch.ops.fastattn.attention(*(x.to_sparse() for x in (q, k, v)))


def _called(call: Callable[[], Any]) -> int:
    """How many of our ops a call calls."""

    class Counting(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(
            self, op: Any, types: Any, args: Any = (), options: Any = None
        ) -> Any:
            self.count += op in OPS
            return op(*args, **(options or {}))

    with Counting() as mode:
        call()
    return mode.count


def test_an_op_for_whoever_takes_note() -> None:
    """Modes, traces, profiles, wrappers; else the op is not called, which takes time."""
    q, k, v = qkv()
    expected = adapter.attention(q, k, v)
    call = lambda x: adapter.attention(x, k, v)  # noqa: E731
    assert _called(lambda: call(q)) == 1
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(x) for x in (q, k, v)]
        assert adapter.attention(*fakes).shape == expected.shape
    for pre_dispatch in (False, True):
        graph = make_fx(call, pre_dispatch=pre_dispatch)(q).graph
        assert OPS[0] in [node.target for node in graph.nodes]
    assert "fastattn::attention" in str(torch.jit.trace(call, q).inlined_graph)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call(q)
    assert "fastattn::attention" in [event.key for event in profile.key_averages()]
    assert torch._is_functional_tensor(call(torch._to_functional_tensor(q)))
    assert type(call(q.as_subclass(Sub))) is Sub
    negative = torch.complex(torch.zeros_like(q), -q).conj().imag
    assert negative.is_neg()
    for attend in (adapter.attention, fastattn.attention):
        torch.testing.assert_close(attend(negative, k, v), expected, rtol=0, atol=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_op, "_plain", None)
        assert torch.equal(call(q), expected)


class Sub(torch.Tensor):
    """A subclass without any method."""


@pytest.mark.slow
@pytest.mark.parametrize("threading", ["", "pool"])
def test_threads_are_torchs(threading: str) -> None:
    """Unless the environment says otherwise; a forked child has threads of its own."""
    run_python(
        """
        import os, sys
        import torch, fastattn, fastattn.torch
        if not os.path.isdir("/proc/self/task"):
            sys.exit()
        torch.set_num_threads(2)
        x = torch.randn(8, 64, 16)
        config = fastattn.Config(threads=2, block_q=8)
        expected = fastattn.torch.attention(x, x, x, config=fastattn.Config(threads=1, block_q=8))
        torch.randn(512, 512) @ torch.randn(512, 512)  # starts torch's threads
        before = set(os.listdir("/proc/self/task"))
        for _ in range(50):
            assert torch.equal(fastattn.torch.attention(x, x, x, config=config), expected)
        started = set(os.listdir("/proc/self/task")) - before
        assert bool(started) == (sys.argv[1] == "pool" or not fastattn.torch._compute._names_host())
        child = os.fork()
        if child == 0:
            equal = torch.equal(fastattn.torch.attention(x, x, x, config=config), expected)
            os._exit(0 if equal else 1)
        assert os.waitpid(child, 0)[1] == 0
        """,
        threading,
        FASTATTN_THREADING=threading,
    )


def test_no_more_threads_than_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the call says how many."""
    seen = []
    plan = _compute.plan
    monkeypatch.setattr(_compute, "plan", lambda *a: seen.append(plan(*a)) or seen[-1])
    q = k = v = normal(4, 8, 256, 64)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        adapter.attention(q, k, v)
        assert seen[-1].config.threads == 1
        adapter.attention(q, k, v, config=fastattn.Config(threads=2))
        assert seen[-1].config.threads == 2
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["", *adapter.__all__])
def test_examples_run(name: str) -> None:
    """Of the module and of each function."""
    thing = getattr(adapter, name) if name else adapter
    assert thing.__doc__
    for example in doctest.DocTestFinder(recurse=False).find(thing, name or "torch", globs={}):
        assert doctest.DocTestRunner(verbose=False).run(example).failed == 0
