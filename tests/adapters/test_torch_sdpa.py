"""torch's own attention, served by fastattn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import run_python
from strategies import DTYPES

import fastattn

torch = pytest.importorskip("torch")
from tensors import GROUPED, normal, ours, qkv  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import fastattn.torch as adapter  # noqa: E402
from fastattn._interop import from_torch, to_torch  # noqa: E402
from fastattn.torch import _sdpa  # noqa: E402

ATEN = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
served = lambda: adapter.status().served  # noqa: E731
dtypes = pytest.mark.parametrize("dtype", DTYPES)


@dtypes
@settings(max_examples=25)
@given(data=st.data())
def test_sdpa_agrees_with_the_oracle(dtype: str, data: st.DataObject) -> None:
    """Any call that torch brings: grouped heads, masks, scales, layouts."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    batch, heads, group = draw(1, 2), draw(1, 3), draw(1, 3 if GROUPED else 1)
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
    q = normal(2, 4, 7, 8, dtype=getattr(torch, dtype))
    for x in (q, q.transpose(1, 2).contiguous().transpose(1, 2), q[:, :1], q[:, :, ::2]):
        meta = torch.empty_strided(x.size(), x.stride(), dtype=x.dtype, device="meta")
        expected = ATEN(meta, meta, meta)
        with adapter.enabled():
            found = ATEN(x, x, x)
        for mine, theirs, kernels in zip(found, expected, ATEN(x, x, x), strict=True):
            assert mine.dtype == kernels.dtype  # torch 2.12's meta kernel: float32 for float64
            assert mine.shape == theirs.shape
            for size, here, there in zip(mine.shape, mine.stride(), theirs.stride(), strict=True):
                assert size == 1 or here == there


def test_what_is_declined_goes_to_torch() -> None:
    """And is told, with the reason."""
    x = normal(1, 2, 3, 4)
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
    x, half = normal(2, 4, 7, 8), normal(2, 4, 7, 4)
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
        "fewer": (
            lambda: sdpa(x, x[:, :2], x[:, :2], enable_gqa=True),
            lambda: sdpa(x, *[x[:, :2].repeat_interleave(2, 1)] * 2),
        ),
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


@pytest.mark.parametrize("before_211", [False, True])
def test_enabling_and_disabling(before_211: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contexts nest, and what torch's registry had active before is active again."""
    registry = torch.nn.attention
    if before_211:
        monkeypatch.setattr(_sdpa, "_registry", _sdpa._Registry())
    x = normal(1, 2, 3, 4)

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
    if _sdpa._registry is not registry:
        return
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
    q, k, v = (x[:, :, :3].double() for x in qkv())
    arrays = [x.requires_grad_() for x in (q, ours(k), ours(v))]
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
    q, k, v = qkv(getattr(torch, kind))
    arrays = [x.detach().requires_grad_() for x in (q, ours(k), ours(v))]
    found = []
    for use in (adapter.enabled, torch.enable_grad):
        with use():
            out = F.scaled_dot_product_attention(*arrays, enable_gqa=True)
        found.append(torch.autograd.grad((out * out).sum(), arrays))
    tolerance = {"float32": 1e-5, "bfloat16": 5e-2, "float16": 5e-3}[kind]
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)
