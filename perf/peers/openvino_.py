"""OpenVINO: `scaled_dot_product_attention` on the CPU device, compiled for latency.

Inputs are tensors over the arrays' memory, and one request computes into a result that
it keeps, so nothing is copied.  The operator needs as many key heads as query heads.
"""

from __future__ import annotations

from typing import Any

from benchmarks.common import Case
from perf.peers.peer import Bound, Peer, fold

TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def _attention(case: Case, q: Any, k: Any, v: Any, threads: int) -> Bound:
    import openvino
    from openvino import opset13

    kind = getattr(openvino.Type, TYPES[case.dtype])
    arrays = (fold(q, k), k, v)
    parameters = [opset13.parameter(list(array.shape), kind) for array in arrays]
    result = opset13.scaled_dot_product_attention(*parameters, causal=case.causal)
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": TYPES[case.dtype],
        "ENABLE_CPU_PINNING": False,  # the process is already bound to its CPUs
    }
    compiled = openvino.Core().compile_model(openvino.Model([result], parameters), "CPU", settings)
    request = compiled.create_infer_request()
    for index, array in enumerate(arrays):
        request.set_input_tensor(index, _tensor(openvino, array, kind))

    def call() -> Any:
        request.infer()
        return request

    def read(request: Any) -> Any:
        shape = (case.batch, case.heads_q, case.length_q, case.dim)
        data = request.get_output_tensor().data
        if case.dtype == "bfloat16":
            data = data.view(q.dtype)
        return data.reshape(shape).copy()

    return Bound(call, read)


def _tensor(openvino: Any, array: Any, kind: Any) -> Any:
    """Tensor over an array's memory."""
    import numpy as np

    if array.dtype.name == "bfloat16":  # a type that its NumPy interface does not know
        return openvino.Tensor(array.view(np.uint16), array.shape, kind)
    return openvino.Tensor(array, shared_memory=True)


PEERS = (
    Peer(
        "openvino",
        "opset13.scaled_dot_product_attention",
        ("openvino",),
        tuple(TYPES),
        _attention,
        grouped=False,
    ),
)
