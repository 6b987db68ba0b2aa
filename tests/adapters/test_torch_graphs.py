"""Compiled and exported modules that call torch's attention and our op."""

from __future__ import annotations

import io
from typing import Any

import pytest

import fastattn

torch = pytest.importorskip("torch")
from tensors import ours, qkv  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import fastattn.torch as adapter  # noqa: E402

served = lambda: adapter.status().served  # noqa: E731


class Both(torch.nn.Module):
    """A layer that calls torch's attention, and then our op."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)

    def forward(self, q: Any, k: Any, v: Any, start: Any) -> Any:
        q = F.scaled_dot_product_attention(self.linear(q), ours(k), ours(v), enable_gqa=True)
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
def test_compiled_by_inductor() -> None:
    """One graph, with a dynamic length and a dynamic position; torch's part is served."""
    from torch._inductor import config

    # No pool of processes for one graph, and no header for it alone.
    quick = {"compile_threads": 1, "cpp_cache_precompile_headers": False}
    quick = {name: value for name, value in quick.items() if hasattr(config, name)}
    layer = Both()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    with config.patch(quick), torch.no_grad(), adapter.enabled():
        for length, start in ((7, 2), (5, 3)):
            q, k, v = qkv()
            before = served()
            found = compiled(q[:, :, :length], k, v, start)
            assert served() == before + 1
            torch.testing.assert_close(found, layer(q[:, :, :length], k, v, start))
    q, k, v = qkv()
    q, k, v = (x.requires_grad_() for x in (q, ours(k), ours(v)))
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
    layer, (q, k, v) = Both(), qkv()
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
