"""`fastattn.onnx`: onnx's own node tests, and generated nodes beside the reference evaluator."""

from __future__ import annotations

import doctest
import importlib
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("onnx", reason="onnx is not installed")

from onnx import TensorProto, helper
from onnx.backend.test.case import node as onnx_nodes
from onnx.backend.test.runner import Runner
from onnx.reference import ReferenceEvaluator

import fastattn.onnx
from fastattn import FastattnError
from fastattn.onnx import Attention, Backend

importlib.import_module("onnx.backend.test.case.node.attention")  # fills the list, for this alone
CASES = [
    case
    for case in onnx_nodes._NodeTestCases
    if case.name.startswith("test_attention") and "_expanded" not in case.name
]
OPSETS = (23, 24, 25)


def test_onnx_has_node_tests() -> None:
    """As many as release 1.23 has, at least."""
    assert len(CASES) >= 93


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_node(case: Any) -> None:
    """As onnx's own runner does it, which would first make the tests of all operators."""
    prepared = Backend.prepare(case.model, "CPU")
    for inputs, expected in case.data_sets:
        Runner.assert_similar_outputs(expected, prepared.run(inputs), case.rtol, case.atol)


@st.composite
def nodes(draw: st.DrawFn) -> tuple[Any, dict[str, np.ndarray], int]:
    """A node, its inputs by name, its opset."""
    opset = draw(st.sampled_from(OPSETS))
    batch, heads_kv, group = (draw(st.integers(1, 3)) for _ in range(3))
    rows, keys = draw(st.integers(1, 5)), draw(st.integers(1, 7))
    size, value_size = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    heads = heads_kv * group
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    attributes: dict[str, Any] = {"is_causal": draw(st.integers(0, 1))}

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    inputs = {
        "Q": normal(batch, heads, rows, size),
        "K": normal(batch, heads_kv, keys, size),
        "V": normal(batch, heads_kv, keys, value_size),
    }
    if draw(st.booleans()):  # (B, L, H * D)
        inputs = {
            name: array.swapaxes(1, 2).reshape(batch, array.shape[2], -1)
            for name, array in inputs.items()
        }
        attributes |= {"q_num_heads": heads, "kv_num_heads": heads_kv}
    total = keys
    if draw(st.booleans()):
        past = draw(st.integers(0, 4))
        total += past
        inputs["past_key"] = normal(batch, heads_kv, past, size)
        inputs["past_value"] = normal(batch, heads_kv, past, value_size)
    elif opset >= 24 and draw(st.booleans()):
        inputs["nonpad_kv_seqlen"] = rng.integers(0, keys, batch, endpoint=True)
    if draw(st.booleans()):
        shortest = inputs["nonpad_kv_seqlen"].max() if "nonpad_kv_seqlen" in inputs else 1
        length = draw(st.integers(max(1, int(shortest)), total))
        axes = (draw(st.sampled_from([1, batch])), draw(st.sampled_from([1, heads])), rows, length)
        shape = axes[draw(st.integers(0, 2)) :]
        is_boolean = draw(st.booleans())
        inputs["attn_mask"] = rng.random(shape) < 0.6 if is_boolean else normal(*shape)
    if draw(st.booleans()):
        attributes["scale"] = 0.5
    if draw(st.booleans()):
        attributes["softcap"] = 1.5
    if opset >= 25 and draw(st.booleans()):
        attributes["left_window_size"] = draw(st.integers(-1, 3))
        attributes["right_window_size"] = draw(st.integers(-1, 3))
    outputs = ["Y", "present_key", "present_value"]
    # Without the reference's mode 0 under a softcap: it is capped there, and raw by the schema.
    modes = [1, 2, 3] if "softcap" in attributes else [0, 1, 2, 3]
    if draw(st.booleans()):
        attributes["qk_matmul_output_mode"] = draw(st.sampled_from(modes))
        outputs.append("qk_matmul_output")
    order = ("Q", "K", "V", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen")
    names = [name if name in inputs else "" for name in order[: 6 + (opset >= 24)]]
    return helper.make_node("Attention", names, outputs, **attributes), inputs, opset


@given(nodes())
def test_nodes_agree_with_the_reference(drawn: tuple[Any, dict[str, np.ndarray], int]) -> None:
    """All inputs, attributes and outputs, together."""
    node, inputs, opset = drawn
    expected = ReferenceEvaluator(node, {"": opset}).run(None, inputs)
    present = [inputs[name] for name in node.input if name]
    results = Backend.run_node(node, present, opset_version=opset)
    assert len(results) == len(expected)
    for ours, theirs in zip(results, expected, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_raw_scores_under_a_softcap() -> None:
    """Mode 0, as the schema describes it; onnx's reference applies the cap."""
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 1, 1, 3, 4))
    outputs = ["Y", "", "", "S"]
    node = helper.make_node("Attention", ["Q", "K", "V"], outputs, softcap=0.1, scale=1.0)
    *_, scores = Backend.run_node(node, [q, k, k])
    np.testing.assert_allclose(scores, q @ k.swapaxes(2, 3))


def test_mask_of_integers() -> None:
    """Its numbers are added, and keys that it is too short for are masked."""
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 1, 1, 3, 4), dtype=np.float32)
    mask = np.array([[1, -2]] * 3, np.int8)
    whole = np.array([[1, -2, -np.inf]] * 3, np.float32)
    (ours, *_), (theirs, *_) = (Attention.eval(q, k, k, each) for each in (mask, whole))
    assert (ours == theirs).all()


def test_scores_are_computed_only_if_requested() -> None:
    """Y and the present keys and values are all else."""
    x = np.ones((1, 1, 2, 3), np.float32)
    assert len(Attention.eval(x, x, x, n_outputs=3)) == 3
    assert len(Attention.eval(x, x, x, n_outputs=4)) == 4


def test_a_model_with_other_operators() -> None:
    """They are the reference's."""
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3, 4, 5]) for name in "XZ"]
    graph = helper.make_graph(
        [
            helper.make_node("Attention", ["X", "X", "X"], ["Y"], is_causal=1),
            helper.make_node("Neg", ["Y"], ["Z"]),
        ],
        "model",
        info[:1],
        info[1:],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5), dtype=np.float32)
    expected = -fastattn.attention(x, x, x, causal=True)
    (by_order,), (by_name,) = (Backend.run_model(model, inputs) for inputs in ([x], {"X": x}))
    assert (by_order == expected).all()
    assert (by_name == expected).all()


def test_devices() -> None:
    """The CPU alone."""
    assert Backend.supports_device("CPU")
    assert not Backend.supports_device("CUDA")


@pytest.mark.parametrize(
    ("inputs", "attributes", "argument"),
    [
        ("Q K V _ P", {}, "past_key"),
        ("Q K V _ P P N", {}, "past_key"),
        ("F F F", {}, "q_num_heads"),
        ("F F F", {"q_num_heads": 5, "kv_num_heads": 4}, "q_num_heads"),
    ],
)
def test_refusals(inputs: str, attributes: dict[str, int], argument: str) -> None:
    """The message says what to change."""
    x = np.ones((1, 2, 3, 4), np.float32)
    arrays = {"F": x[0], "N": np.array([1]), "_": None}
    with pytest.raises(FastattnError, match=f"`{argument}.*Fix:"):
        Attention.eval(*(arrays.get(name, x) for name in inputs.split()), **attributes)


def test_examples() -> None:
    """Of the module and its classes."""
    result = doctest.testmod(sys.modules["fastattn.onnx"])
    assert result.attempted > 10
    assert result.failed == 0
