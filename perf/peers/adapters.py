"""fastattn through its adapters: their times over `cython`'s are what they add to a call."""

from __future__ import annotations

import importlib
from typing import Any

from benchmarks.common import Case
from perf.peers.ours import DTYPES
from perf.peers.peer import Bound, Peer, owns_its_cpus
from perf.peers.torch_ import tensor


def _onnx(case: Case, q: Any, k: Any, v: Any, threads: int) -> Bound:
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    operator = importlib.import_module("fastattn.onnx").Attention
    names = {"float32": "FLOAT", "float64": "DOUBLE"}
    dtype = getattr(TensorProto, names.get(case.dtype, case.dtype.upper()))
    *inputs, y = (helper.make_tensor_value_info(name, dtype, None) for name in "QKVY")
    node = helper.make_node("Attention", ["Q", "K", "V"], ["Y"], is_causal=int(case.causal))
    model = helper.make_model(helper.make_graph([node], "attention", inputs, [y]))
    evaluator = ReferenceEvaluator(model, new_ops=[operator])
    feed = {"Q": q, "K": k, "V": v}
    return Bound(lambda: evaluator.run(None, feed), read=lambda result: result[0])


def _torch(case: Case, q: Any, k: Any, v: Any, threads: int) -> Bound:
    import torch

    torch.set_num_threads(threads)
    attention = importlib.import_module("fastattn.torch").attention
    q, k, v = map(tensor, (q, k, v))

    def call() -> Any:
        return attention(q, k, v, causal=case.causal)

    return Bound(call, lambda result: result.double().numpy(), torch.inference_mode)


def _transformers(case: Case, q: Any, k: Any, v: Any, threads: int) -> Bound:
    import torch
    from transformers import AttentionInterface

    torch.set_num_threads(threads)
    importlib.import_module("fastattn.transformers").register()
    attention, module = AttentionInterface()["fastattn"], torch.nn.Module()
    q, k, v = map(tensor, (q, k, v))

    def call() -> Any:
        return attention(module, q, k, v, None, is_causal=case.causal)

    def read(result: Any) -> Any:  # (B, Lq, Hq, D); float64 holds any type exactly
        return result[0].transpose(1, 2).double().numpy()

    return Bound(call, read, torch.inference_mode)


def _peer(library: str, bind: Any) -> Peer:
    return Peer(
        f"ours-{library}",
        f"fastattn.{library}",
        (library, f"fastattn.{library}"),
        DTYPES,
        bind,
        install=f"pip install '.[{library}]'",
        refuses=owns_its_cpus,
    )


PEERS = (
    _peer("onnx", _onnx),
    _peer("torch", _torch),
    _peer("transformers", _transformers),
)
