"""ONNX Runtime: the standard operator `Attention`, and its own two operators for transformers.

Each session runs one node.  Inputs are bound once, and ONNX Runtime allocates the result, which
is faster than ``run`` on small inputs.  Threads spin between calls, which is its default and its
fastest setting; `timing.settle` waits until they sleep.

`ort-mha` takes keys in the operator's first layout, (B, L, H * D), and `ort-mha4d` in
(B, H, L, D): sometimes the one is faster, sometimes the other.  `ort-gqa` is what ONNX Runtime's
language models run: it is always causal, and for one new query it writes the new key into the
cache and reads the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.common import Case
from perf.peers.peer import Bound, Peer, fold

OPSET, CONTRIB = 23, "com.microsoft"  # the first opset with Attention; the domain of the others
MODULES = ("onnxruntime", "onnx")


def _attention(case: Case, q: Any, k: Any, v: Any, threads: int) -> Bound:
    from onnx import helper

    node = helper.make_node("Attention", ["q", "k", "v"], ["o"], is_causal=int(case.causal))
    arrays = {"q": q, "k": k, "v": v}  # (B, H, L, D); the shapes show the groups
    return _session(node, arrays, threads, lambda result: result)


def _multihead(heads_first: bool) -> Callable[..., Bound]:
    def bind(case: Case, q: Any, k: Any, v: Any, threads: int) -> Bound:
        from onnx import helper

        node = helper.make_node(
            "MultiHeadAttention",
            ["q", "k", "v"],
            ["o"],
            domain=CONTRIB,
            num_heads=case.heads_kv,
            unidirectional=int(case.causal),
        )
        arrays = {"q": _rows(fold(q, k)), "k": k, "v": v}
        if not heads_first:
            arrays |= {"k": _rows(k), "v": _rows(v)}

        def read(result: Any) -> Any:
            return _heads(result, case.heads_kv).reshape(q.shape)

        return _session(node, arrays, threads, read)

    return bind


def _grouped_query(case: Case, q: Any, k: Any, v: Any, threads: int) -> Bound:
    import numpy as np
    from onnx import helper

    node = helper.make_node(
        "GroupQueryAttention",
        ["q", "k", "v", "past_k", "past_v", "last_key", "length"],
        ["o", "present_k", "present_v"],
        domain=CONTRIB,
        num_heads=case.heads_q,
        kv_num_heads=case.heads_kv,
    )
    decodes = case.length_q == 1
    new = slice(-1, None) if decodes else slice(None)
    arrays = {
        "q": _rows(q),
        "k": _rows(k[:, :, new]),
        "v": _rows(v[:, :, new]),
        # A copy, because the cache is written to.
        "past_k": k.copy() if decodes else k[:, :, :0],
        "past_v": v.copy() if decodes else v[:, :, :0],
        "last_key": np.full(case.batch, case.length_k - 1, np.int32),
        "length": np.array([case.length_k], np.int32),
    }
    kept = {"present_k": k, "present_v": v}
    in_place = {"present_k": "past_k", "present_v": "past_v"} if decodes else {}
    return _session(
        node, arrays, threads, lambda result: _heads(result, case.heads_q), kept, in_place
    )


def _rows(array: Any) -> Any:
    """(B, H, L, D) -> (B, L, H * D)."""
    batch, _, length, _ = array.shape
    return array.swapaxes(1, 2).reshape(batch, length, -1)


def _heads(array: Any, heads: int) -> Any:
    """(B, L, H * D) -> (B, H, L, D)."""
    batch, length, _ = array.shape
    return array.reshape(batch, length, heads, -1).swapaxes(1, 2)


def _session(
    node: Any,
    arrays: dict[str, Any],
    threads: int,
    read: Callable[[Any], Any],
    kept: dict[str, Any] | None = None,
    in_place: dict[str, str] | None = None,
) -> Bound:
    """Make a session of one node.

    Parameters
    ----------
    kept : dict
        Results other than "o", each with an array of its shape.
    in_place : dict
        Those of them that are written over an input, with the input's name.
    """
    import numpy as np
    import onnxruntime
    from onnx import helper

    def info(name: str, array: Any) -> Any:
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        return helper.make_tensor_value_info(name, kind, array.shape)

    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    outputs = {"o": arrays["q"], **(kept or {})}
    model = helper.make_model(
        helper.make_graph(
            [node],
            "attention",
            [info(name, array) for name, array in arrays.items()],
            [info(name, array) for name, array in outputs.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)],
        ir_version=10,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(a) for name, a in arrays.items()}
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    for name in outputs:
        if in_place and name in in_place:
            binding.bind_ortvalue_output(name, values[in_place[name]])
        else:
            binding.bind_output(name)

    def call() -> Any:
        session.run_with_iobinding(binding)
        return binding

    return Bound(call, lambda bound: read(bound.get_outputs()[0].numpy()))


def _neither(case: Case, threads: int) -> str | None:
    return None if case.causal or case.length_q == 1 else "is always causal"


PEERS = (
    Peer(
        "ort-attention",
        f"operator Attention, opset {OPSET}",
        MODULES,
        ("float32", "float16"),
        _attention,
    ),
    *(
        Peer(
            name,
            f"operator MultiHeadAttention, keys {layout}",
            MODULES,
            ("float32", "float16"),
            _multihead(heads_first),
            grouped=False,
        )
        for name, layout, heads_first in (
            ("ort-mha", "(B, L, H * D)", False),
            ("ort-mha4d", "(B, H, L, D)", True),
        )
    ),
    Peer(
        "ort-gqa",
        "operator GroupQueryAttention",
        MODULES,
        ("float32", "float16"),
        _grouped_query,
        refuses=_neither,
    ),
)
