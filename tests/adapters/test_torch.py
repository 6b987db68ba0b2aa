"""fastattn in PyTorch: torch's own attention served by fastattn, and an op of ours."""

from __future__ import annotations

import doctest
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import run_python
from strategies import DTYPES, FEATURES, Call, calls

import fastattn

torch = pytest.importorskip("torch")
from torch.nn import functional as F  # noqa: E402

import fastattn.torch as adapter  # noqa: E402
from fastattn._interop import from_torch, to_torch  # noqa: E402
from fastattn.torch import _compute  # noqa: E402

OPS = torch.ops.fastattn.attention.default, torch.ops.fastattn.attention_with_lse.default
ATEN = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
served = lambda: adapter.status().served  # noqa: E731
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def _tensor(array: np.ndarray) -> Any:
    """The array, or its copy if torch has no such strides."""
    if any(stride < 0 or stride % array.itemsize for stride in array.strides):
        array = array.copy()
    return to_torch(array)


def _normal(*shape: int, dtype: Any = torch.float32) -> Any:
    return torch.randn(shape).to(dtype)


def _qkv(dtype: Any = torch.float32, dim_v: int = 8) -> tuple[Any, Any, Any]:
    """B 2, Hq 4, Hkv 2, Lq 7, Lk 9, D 8."""
    shapes = (2, 4, 7, 8), (2, 2, 9, 8), (2, 2, 9, dim_v)
    return tuple(_normal(*shape, dtype=dtype) for shape in shapes)


# torch's own attention


@dtypes
@settings(max_examples=25)
@given(data=st.data())
def test_sdpa_agrees_with_the_oracle(dtype: str, data: st.DataObject) -> None:
    """Any call that torch brings: grouped heads, masks, scales, layouts."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    batch, heads, group = draw(1, 2), draw(1, 3), draw(1, 3)
    length_q, length_k, dim = draw(1, 70), draw(1, 70), draw(1, 70)
    shapes = (batch, heads * group, length_q, dim), *[(batch, heads, length_k, dim)] * 2
    swapped = data.draw(st.booleans())

    def array(shape: tuple[int, ...]) -> np.ndarray:
        if swapped:
            shape = shape[0], shape[2], shape[1], shape[3]
        values = rng.standard_normal(shape).astype(DTYPES[dtype])
        return values.swapaxes(1, 2) if swapped else values

    arrays = [array(shape) for shape in shapes]
    arguments: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    kind = data.draw(st.sampled_from(["none", "causal", "bool", "added"]))
    if kind == "causal":
        arguments, theirs = {"causal": True, "align": "top_left"}, {"is_causal": True}
    elif kind != "none":
        shape = data.draw(
            st.sampled_from([(length_q, length_k), (batch, 1, 1, length_k), (1, 1, length_q, 1)])
        )
        mask = rng.random(shape) < 0.7
        if kind == "added":
            mask = rng.standard_normal(shape).astype(DTYPES[dtype])
        arguments, theirs = {"mask": mask}, {"attn_mask": to_torch(mask)}
    if data.draw(st.booleans()):
        arguments["scale"] = theirs["scale"] = 0.3
    before = served()
    with adapter.enabled():
        out = F.scaled_dot_product_attention(*map(to_torch, arrays), enable_gqa=group > 1, **theirs)
    assert served() == before + 1
    lse = fastattn.attention(*arrays, return_lse=True, **arguments)[1]
    oracle.assert_agrees((from_torch(out), lse), *arrays, **arguments)


@dtypes
def test_memory_is_laid_out_as_torch_expects(dtype: str) -> None:
    """What Inductor asserts: strides and types of its meta kernel."""
    q = _normal(2, 4, 7, 8, dtype=getattr(torch, dtype))
    for x in (q, q.transpose(1, 2).contiguous().transpose(1, 2), q[:, :1], q[:, :, ::2]):
        meta = torch.empty_strided(x.size(), x.stride(), dtype=x.dtype, device="meta")
        expected = ATEN(meta, meta, meta)
        with adapter.enabled():
            found = ATEN(x, x, x)
        for mine, theirs in zip(found, expected, strict=True):
            assert mine.dtype == theirs.dtype
            assert mine.shape == theirs.shape
            for size, here, there in zip(mine.shape, mine.stride(), theirs.stride(), strict=True):
                assert size == 1 or here == there


def test_what_is_declined_goes_to_torch() -> None:
    """And is told, with the reason."""
    x = _normal(1, 2, 3, 4)
    before = adapter.status().declined
    with adapter.enabled(), pytest.raises(RuntimeError, match="dropout"):
        ATEN(x, x, x, 0.5)
    with adapter.enabled(), pytest.raises(RuntimeError, match="should have the same head size"):
        ATEN(x, x[..., :3], x[..., :3])
    after = adapter.status()
    reasons = {r for r, n in after.declined.items() if n > before.get(r, 0)}
    assert len(reasons) == 2
    assert "dropout" in reasons
    assert any("the same last axis D" in reason for reason in reasons)
    assert all(reason in str(after) for reason in reasons)


@pytest.mark.parametrize("name", adapter.status().elsewhere)
def test_what_torch_never_brings(name: str) -> None:
    """Each pattern that `status` names works, without us; its remedy brings it here."""
    x, half = _normal(2, 4, 7, 8), _normal(2, 4, 7, 4)
    sdpa = F.scaled_dot_product_attention
    mask = torch.zeros(4, 7, 7)
    layer = torch.nn.MultiheadAttention(8, 2, batch_first=True).eval()
    patterns: dict[str, tuple[Callable[[], Any], Callable[[], Any] | None]] = {
        "3-D": (lambda: sdpa(x[0], x[0], x[0]), lambda: sdpa(x[:1], x[:1], x[:1])),
        "5-D": (lambda: sdpa(x[None], x[None], x[None]), lambda: sdpa(x, x, x)),
        "values whose": (lambda: sdpa(x, x, half), None),
        "batch axes": (
            lambda: sdpa(x, x[:1], x[:1]),
            lambda: sdpa(x, x[:1].expand(2, -1, -1, -1), x[:1].expand(2, -1, -1, -1)),
        ),
        "a mask with": (lambda: sdpa(x, x, x, mask), lambda: sdpa(x, x, x, mask[None])),
        "a mask that": (lambda: sdpa(x, x, x, mask[0].clone().requires_grad_()), None),
        "dropout": (lambda: sdpa(x, x, x, dropout_p=0.5), lambda: sdpa(x, x, x)),
        "a last axis": (
            lambda: sdpa(*[x.transpose(-1, -2)] * 3),
            lambda: sdpa(*[x.transpose(-1, -2).contiguous()] * 3),
        ),
        "no queries": (lambda: sdpa(x[:, :, :0], x, x), None),
        "nested": (lambda: sdpa(*[torch.nested.nested_tensor([x[0], x[1]])] * 3), None),
        "sdpa_kernel": (lambda: _with_math(lambda: sdpa(x, x, x)), lambda: sdpa(x, x, x)),
        "nn.Multi": (
            lambda: layer(*[x[0]] * 3, need_weights=False),
            lambda: _without_fast_path(lambda: layer(*[x[0]] * 3, need_weights=False)),
        ),
        "need_weights": (
            lambda: _without_fast_path(lambda: layer(*[x[0]] * 3)),
            lambda: _without_fast_path(lambda: layer(*[x[0]] * 3, need_weights=False)),
        ),
        "AOTInductor": (lambda: None, None),
    }
    (call, remedy), *more = [row for key, row in patterns.items() if name.startswith(key)]
    assert not more
    with adapter.enabled(), torch.set_grad_enabled(name.startswith("a mask that")):
        before = served()
        call()
        assert served() == before
        if remedy is not None:
            remedy()
            assert served() == before + 1


def _with_math(call: Callable[[], Any]) -> Any:
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return call()


def _without_fast_path(call: Callable[[], Any]) -> Any:
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        return call()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_enabling_and_disabling() -> None:
    """Contexts nest, and what torch's registry had active before is active again."""
    registry = torch.nn.attention
    x = _normal(1, 2, 3, 4)

    class Handle:
        def remove(self) -> None:
            pass

    def active() -> bool:
        before = served()
        F.scaled_dot_product_attention(x, x, x)
        assert adapter.status().enabled == (served() > before)
        return served() > before

    assert not active()
    with adapter.enabled():
        assert active()
        with adapter.enabled():
            assert active()
        assert active()
    assert not active()
    adapter.disable()
    adapter.enable()
    adapter.enable()
    assert active()
    adapter.disable()
    assert not active()
    registry.register_flash_attention_impl("another", register_fn=Handle)
    registry.activate_flash_attention_impl("another")
    with adapter.enabled():
        assert active()
    adapter.disable()
    assert registry.current_flash_attention_impl() == "another"
    registry.restore_flash_attention_impl()


def test_importing_activates_nothing_and_enabling_is_silent() -> None:
    """With warnings as errors, in a fresh process, where torch would warn once."""
    run_python(
        """
        import warnings
        import torch, fastattn.torch
        warnings.simplefilter("error")
        assert not fastattn.torch.status().enabled
        x = torch.ones(1, 2, 3, 4)
        with fastattn.torch.enabled():
            torch.nn.functional.scaled_dot_product_attention(x, x, x)
        assert fastattn.torch.status().served == 1
        assert "not enabled" in str(fastattn.torch.status())
        """
    )


def test_gradients_are_torchs_own() -> None:
    """Finite differences agree, rows without visible keys included."""
    arrays = [x[:, :, :3].double().requires_grad_() for x in _qkv()]
    mask = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
    for options in ({}, {"is_causal": True}, {"attn_mask": mask}, {"scale": 0.2}):
        before = served()
        with adapter.enabled():
            assert torch.autograd.gradcheck(
                lambda q, k, v, o=options: F.scaled_dot_product_attention(
                    q, k, v, enable_gqa=True, **o
                ),
                arrays,
                fast_mode=True,
            )
        assert served() > before


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
def test_training_gives_torchs_gradients(kind: str) -> None:
    """To the type's accuracy."""
    arrays = [x.detach().requires_grad_() for x in _qkv(getattr(torch, kind))]
    found = []
    for use in (adapter.enabled, torch.enable_grad):
        with use():
            out = F.scaled_dot_product_attention(*arrays, enable_gqa=True)
        found.append(torch.autograd.grad((out * out).sum(), arrays))
    tolerance = {"float32": 1e-5, "bfloat16": 5e-2, "float16": 5e-3}[kind]
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


class Both(torch.nn.Module):
    """A layer that calls torch's attention, and then our op."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)

    def forward(self, q: Any, k: Any, v: Any, start: Any) -> Any:
        q = F.scaled_dot_product_attention(self.linear(q), k, v, enable_gqa=True)
        out, lse = adapter.attention(
            q * 2,
            k,
            v,
            window=(3, 0),
            align=start,
            softcap=5.0,
            return_lse=True,
            config=fastattn.Config(threads=1),
        )
        return out + lse[..., None]


@pytest.mark.slow
@pytest.mark.skipif(
    " " in torch.__path__[0], reason="Inductor does not compile if PyTorch's path has a space"
)
def test_compiled_by_inductor(monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph, with a dynamic length and a dynamic position; torch's part is served."""
    from torch._inductor import config

    monkeypatch.setattr(config, "compile_threads", 1)  # no pool of processes for one graph
    monkeypatch.setattr(config, "cpp_cache_precompile_headers", False)
    layer = Both()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    with torch.no_grad(), adapter.enabled():
        for length, start in ((7, 2), (5, 3)):
            q, k, v = _qkv()
            before = served()
            found = compiled(q[:, :, :length], k, v, start)
            assert served() == before + 1
            torch.testing.assert_close(found, layer(q[:, :, :length], k, v, start))
    q, k, v = (x.requires_grad_() for x in _qkv())
    train = torch.compile(
        lambda: F.scaled_dot_product_attention(q * 2, k, v, enable_gqa=True).square().sum(),
        fullgraph=True,
        backend="aot_eager",  # whose backward is what Inductor compiles
    )
    with adapter.enabled():
        before = served()
        gradient = torch.autograd.grad(train(), q)[0]
        assert served() == before + 1
    expected = F.scaled_dot_product_attention(q * 2, k, v, enable_gqa=True).square().sum()
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, q)[0])


def test_exported_and_loaded() -> None:
    """Each attention is one node, and a loaded module is served."""
    layer, (q, k, v) = Both(), _qkv()
    length = torch.export.Dim("Lq")
    with torch.no_grad():
        program = torch.export.export(
            layer, (q, k, v, 2), dynamic_shapes=({2: length}, None, None, None)
        )
        file = io.BytesIO()
        torch.export.save(program, file)
        file.seek(0)
        loaded = torch.export.load(file)
        nodes = [str(node.target) for node in loaded.graph.nodes if "attention" in str(node.target)]
        assert len(nodes) == 2
        assert "fastattn.attention_with_lse.default" in nodes
        with adapter.enabled():
            before = served()
            found = loaded.module()(q[:, :, :4], k, v, 2)
            assert served() == before + 1
        torch.testing.assert_close(found, layer(q[:, :, :4], k, v, 2))


# Our op


@dtypes
@settings(max_examples=25)
@given(data=st.data())
def test_the_op_is_the_call(dtype: str, data: st.DataObject) -> None:
    """Bit for bit `fastattn.attention`, for any call but `out`."""
    features = tuple(name for name in FEATURES if name != "out")
    call: Call = data.draw(calls(dtypes=(dtype,), features=features))
    arguments: dict[str, Any] = call.arguments | {"config": fastattn.Config(**call.tunables)}
    theirs = {
        name: _tensor(value) if isinstance(value, np.ndarray) else value
        for name, value in arguments.items()
    }
    tensors = [_tensor(array) for array in call.arrays]
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
    q, k, v = _qkv(dim_v=5)
    for tensors, options in (
        ((q, k, v), {}),
        (
            (q, k, v, _normal(7, 9), _normal(4), torch.tensor([3, 9]), torch.tensor([0, 1])),
            {"causal": True, "softcap": 3.0, "left": 4},
        ),
        ((q[0, 0], k[0, 0], v[0, 0]), {"length": 4, "position": 1, "right": 2}),
        (tuple(x.bfloat16() for x in (q, k, v)), {"impl": "numpy"}),
    ):
        results = torch.library.opcheck(op, tensors, options)
        assert set(results.values()) == {"SUCCESS"}, results


def test_autocast() -> None:
    """As torch's own attention: to the context's type, float64 left alone."""
    q, k, v = _qkv()
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
    tensors = {key: _normal(*shape) for key, (shape, _) in VMAPS[name].items()}
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
    q, k, v = _qkv()
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


def test_no_more_threads_than_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the call says how many."""
    seen = []
    plan = _compute.plan
    monkeypatch.setattr(_compute, "plan", lambda *a: seen.append(plan(*a)) or seen[-1])
    q = k = v = _normal(4, 8, 256, 64)
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
