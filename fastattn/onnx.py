"""ONNX's operator Attention, for the reference evaluator and as a backend.

`Attention` computes this operator in onnx's reference evaluator, for every opset from 23 on.
`Backend` runs whole models, with all other operators from the reference evaluator.  Importing this
module does not change onnx.

Inputs and attributes of the operator, and the arguments of `fastattn.attention`:

=========================================  =======================================================
input or attribute                         argument of `fastattn.attention`
=========================================  =======================================================
Q, K, V (B, H, L, D)                       `q`, `k`, `v`
Q, K, V (B, L, H * D), `q_num_heads`,      `q`, `k`, `v`, as views with separate heads; Y has the
`kv_num_heads`                             axes (B, L, H * D) too
`past_key`, `past_value`                   joined before K and V; the joined arrays are also the
                                           outputs `present_key` and `present_value`
`attn_mask`                                `mask`; integers are converted to floating point, and
                                           keys beyond the end of a shorter mask are masked
`nonpad_kv_seqlen`                         `kv_lengths`
`is_causal`                                `causal`; `align` is the number of past keys, or
                                           ``nonpad_kv_seqlen - Lq``, or 0
`left_window_size`, `right_window_size`    `window`, with the same `align`; -1 becomes None
`scale`, `softcap`                         `scale`, `softcap`; a softcap of 0 becomes None
`softmax_precision`                        ignored: 16-bit types are always computed in float32
`qk_matmul_output`, its mode               computed by NumPy, if the node has this output
=========================================  =======================================================

Examples
--------
>>> import numpy as np
>>> from onnx import TensorProto, helper
>>> from onnx.reference import ReferenceEvaluator
>>> from fastattn.onnx import Attention
>>> q, k, v, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "QKVY")
>>> node = helper.make_node("Attention", ["Q", "K", "V"], ["Y"], is_causal=1)
>>> model = helper.make_model(helper.make_graph([node], "causal", [q, k, v], [y]))
>>> x = np.random.default_rng(0).standard_normal((1, 8, 100, 64), dtype=np.float32)
>>> (result,) = ReferenceEvaluator(model, new_ops=[Attention]).run(None, {"Q": x, "K": x, "V": x})
>>> result.shape
(1, 8, 100, 64)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx.backend import base
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from fastattn import masks
from fastattn._api import attention
from fastattn._errors import ArgumentError
from fastattn._normalise import normalise

__all__ = ["Attention", "Backend"]

# Values of `qk_matmul_output_mode` beside 0, which is the scaled scores.
_SOFTCAPPED, _WITH_BIAS, _PROBABILITIES = 1, 2, 3


class Attention(OpRun):  # its name is that of the operator
    """ONNX's operator Attention, for ``ReferenceEvaluator(model, new_ops=[Attention])``.

    Inputs and attributes are those of the operator; the table at the top of this module shows how
    they are computed.  Data types: float32, float64, float16 and bfloat16.

    Raises
    ------
    FastattnError
        As for `fastattn.attention`.  ArgumentError if only one of `past_key` and `past_value` is
        given, or both together with `nonpad_kv_seqlen`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastattn.onnx import Attention
    >>> x = np.zeros((1, 2, 3, 4), np.float32)
    >>> y, present_key, present_value = Attention.eval(x, x, x, n_outputs=3)
    >>> y.shape
    (1, 2, 3, 4)
    """

    op_domain = ""

    def _run(
        self,
        Q: np.ndarray,
        K: np.ndarray,
        V: np.ndarray,
        attn_mask: np.ndarray | None = None,
        past_key: np.ndarray | None = None,
        past_value: np.ndarray | None = None,
        nonpad_kv_seqlen: np.ndarray | None = None,
        *,
        scale: float | None = None,
        is_causal: int = 0,
        q_num_heads: int | None = None,
        kv_num_heads: int | None = None,
        softmax_precision: int | None = None,
        softcap: float = 0.0,
        qk_matmul_output_mode: int = 0,
        left_window_size: int = -1,
        right_window_size: int = -1,
    ) -> tuple[np.ndarray, ...]:
        if (past_key is None) != (past_value is None) or (
            past_key is not None and nonpad_kv_seqlen is not None
        ):
            raise ArgumentError(
                "past_key",
                "one of past_key and past_value, or both and nonpad_kv_seqlen",
                "both past_key and past_value, or nonpad_kv_seqlen, or none of them",
                "give both past inputs, or mask padding of the past with attn_mask",
            )
        q = _by_head(Q, q_num_heads)
        k, v = _by_head(K, kv_num_heads), _by_head(V, kv_num_heads)
        offset: int | np.ndarray = 0
        if past_key is not None and past_value is not None:
            offset = past_key.shape[2]
            k = np.concatenate((past_key, k), axis=2)
            v = np.concatenate((past_value, v), axis=2)
        elif nonpad_kv_seqlen is not None:
            offset = nonpad_kv_seqlen - q.shape[2]
        left, right = (None if side < 0 else side for side in (left_window_size, right_window_size))
        window = None if left is right is None else (left, right)
        options: dict[str, Any] = {
            "mask": None if attn_mask is None else _fitting(attn_mask, q.dtype, k.shape[2]),
            "causal": bool(is_causal),
            "window": window,
            "align": offset if is_causal or window else None,
            "scale": scale,
            "softcap": softcap or None,
            "kv_lengths": nonpad_kv_seqlen,
        }
        batch, heads, rows, _ = q.shape
        y = np.empty((batch, rows, heads, v.shape[3]), q.dtype)
        attention(q, k, v.astype(q.dtype, copy=False), out=y.swapaxes(1, 2), **options)
        y = y.reshape(batch, rows, -1) if Q.ndim == 3 else y.swapaxes(1, 2)
        if len(self.output) < 4 or not self.output[3]:
            return y, k, v
        return y, k, v, _scores(q, k, qk_matmul_output_mode, **options)


def _by_head(array: np.ndarray, heads: int | None) -> np.ndarray:
    """(B, L, H * D) as (B, H, L, D)."""
    if array.ndim != 3:
        return array
    if not heads or array.shape[2] % heads:
        raise ArgumentError(
            "q_num_heads and kv_num_heads",
            f"{heads} heads for an input of shape {array.shape}",
            "divisors of the last axis of 3-D inputs",
            "set both attributes, or pass 4-D inputs (B, H, L, D)",
        )
    return array.reshape(*array.shape[:2], heads, -1).swapaxes(1, 2)


def _fitting(mask: np.ndarray, dtype: np.dtype, keys: int) -> np.ndarray:
    """The mask in a type that can be added to scores; keys that it is too short for are masked."""
    if mask.dtype != bool:
        mask = mask.astype(dtype, copy=False)
    if mask.shape[-1] == keys:
        return mask
    padding = [(0, 0)] * (mask.ndim - 1) + [(0, keys - mask.shape[-1])]
    return np.pad(mask, padding, constant_values=False if mask.dtype == bool else -np.inf)


def _scores(q: np.ndarray, k: np.ndarray, mode: int, **options: Any) -> np.ndarray:
    """What `qk_matmul_output` shows, in q's data type: (B, Hq, Lq, Lk)."""
    if mode == _PROBABILITIES:  # each key's value is a column of the identity
        identity = np.eye(k.shape[2], dtype=q.dtype)
        values = np.broadcast_to(identity, (*k.shape[:2], *identity.shape))
        return np.asarray(attention(q, k, values, **options))
    problem = normalise(q, k, k, **options)
    spec = problem.spec
    compute = spec.dtype.compute
    grouped = q.astype(compute).reshape(q.shape[0], spec.heads_kv, spec.group, *q.shape[2:])
    scores = spec.scale * grouped @ k.astype(compute)[:, :, None].swapaxes(-1, -2)
    scores = scores.reshape(spec.scores_shape)
    if mode >= _SOFTCAPPED and spec.softcap is not None:
        scores = spec.softcap * np.tanh(scores / spec.softcap)
    if mode == _WITH_BIAS:
        mask = masks.lowered(problem, frozenset({"dense"})).mask
        if mask is not None:
            scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    return np.asarray(scores, q.dtype)


class Backend(base.Backend):
    """ONNX's backend interface: the reference evaluator, with `Attention` for this operator.

    It runs on the CPU only.

    Examples
    --------
    >>> import numpy as np
    >>> from onnx import helper
    >>> from fastattn.onnx import Backend
    >>> node = helper.make_node("Attention", ["Q", "K", "V"], ["Y"])
    >>> x = np.zeros((1, 2, 3, 4), np.float32)
    >>> Backend.run_node(node, [x, x, x])[0].shape
    (1, 2, 3, 4)
    """

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **keywords: Any) -> _Prepared:
        """Return the model, ready to `run`."""
        super().prepare(model, device, **keywords)
        return _Prepared(ReferenceEvaluator(model, new_ops=[Attention]))

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Sequence[np.ndarray],
        device: str = "CPU",
        outputs_info: Any = None,
        **keywords: Any,
    ) -> tuple[np.ndarray, ...]:
        """Compute one node and return its outputs."""
        super().run_node(node, inputs, device, outputs_info, **keywords)
        opset = keywords.get("opset_version")
        opsets = None if opset is None else {"": opset}
        return _Prepared(ReferenceEvaluator(node, opsets, new_ops=[Attention])).run(inputs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether it is the CPU."""
        return bool(base.Device(device).type == base.DeviceType.CPU)


class _Prepared(base.BackendRep):
    def __init__(self, evaluator: ReferenceEvaluator) -> None:
        self._evaluator = evaluator

    def run(self, inputs: Any, **keywords: Any) -> tuple[np.ndarray, ...]:
        """Compute the outputs, for inputs in the model's order or by name."""
        if not isinstance(inputs, dict):
            names = [name for name in self._evaluator.input_names if name]
            inputs = dict(zip(names, inputs, strict=False))
        return tuple(self._evaluator.run(None, inputs))
