"""`fastattn.transformers`: models from configurations, beside the same models with "eager".

The models are tiny and random, and nothing is fetched.
"""

from __future__ import annotations

import copy
import doctest
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import torch
import transformers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    DynamicCache,
    StaticCache,
)

import fastattn.transformers
from fastattn import FastattnError

# Read while tests are collected, when none has run.
REGISTERED_BY_IMPORT = "fastattn" in {
    *transformers.AttentionInterface(),
    *transformers.AttentionMaskInterface(),
}
TOLERANCE = 1e-5
SMALL = {
    "vocab_size": 99,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GEMMA = SMALL | {"head_dim": 16}
WINDOWED = GEMMA | {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
CAUSAL = {
    "llama": transformers.LlamaConfig(**SMALL),
    "mistral": transformers.MistralConfig(**SMALL, sliding_window=8),
    "gemma": transformers.GemmaConfig(**GEMMA),
    "gemma2": transformers.Gemma2Config(**WINDOWED, attn_logit_softcapping=2.0),
    "gemma3": transformers.Gemma3TextConfig(**WINDOWED),
    "gpt_oss": transformers.GptOssConfig(
        **WINDOWED, num_local_experts=4, num_experts_per_tok=2, tie_word_embeddings=False
    ),
    "qwen2": transformers.Qwen2Config(**SMALL),
    "qwen3": transformers.Qwen3Config(**GEMMA),
    "deepseek_v3": transformers.DeepseekV3Config(
        **SMALL | {"num_key_value_heads": 4},
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        moe_intermediate_size=32,
        first_k_dense_replace=1,
        q_lora_rank=24,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=16,
        v_head_dim=12,
    ),
}
Model = Any


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    """Nothing is fetched, and no gradients are wanted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        fastattn.transformers.register()
        with torch.inference_mode():
            yield


@pytest.fixture(scope="module", params=CAUSAL)
def model(request: pytest.FixtureRequest) -> Model:
    return _random(AutoModelForCausalLM, CAUSAL[request.param])


def _random(kind: Any, config: Any, **options: Any) -> Model:
    """A model whose weights, sinks too, are large enough for attention to matter."""
    torch.manual_seed(0)
    with torch.inference_mode(False):
        model = kind.from_config(copy.deepcopy(config), **options).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 or name.endswith("sinks"):
                parameter.normal_(0, 1 if name.endswith("sinks") else 0.15)
    return model


def _tokens(*shape: int) -> torch.Tensor:
    return torch.randint(3, 99, shape, generator=torch.Generator().manual_seed(1))


def _full(model: Model) -> torch.Tensor:
    return model(_tokens(2, 18)).logits


def _left_padded(model: Model) -> torch.Tensor:
    """Without the rows of the padding, in which "eager" averages all keys."""
    visible = _padding(18, 7)
    positions = visible.cumsum(1) - 1
    logits = model(_tokens(2, 18), attention_mask=visible, position_ids=positions).logits
    return logits[visible.bool()]


def _padding(length: int, masked: int) -> torch.Tensor:
    visible = torch.ones(2, length, dtype=torch.long)
    visible[1, :masked] = 0
    return visible


def _in_chunks(model: Model, cache: Any) -> torch.Tensor:
    """A prompt of 12, a chunk of 5, a token."""
    tokens = _tokens(2, 18)
    ends = ((0, 12), (12, 17), (17, 18))
    return torch.cat([model(tokens[:, a:b], cache=cache).logits for a, b in ends], 1)


def _dynamic(model: Model) -> torch.Tensor:
    return _in_chunks(model, DynamicCache(config=model.config))


def _static(model: Model) -> torch.Tensor:
    return _in_chunks(model, StaticCache(config=model.config, max_cache_len=24))


def _sampled(model: Model) -> torch.Tensor:
    torch.manual_seed(2)
    tokens, visible = _tokens(2, 12), _padding(12, 5)
    return model.generate(tokens, attention_mask=visible, max_new_tokens=6, do_sample=True)


def _both(model: Model, run: Callable[[Model], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    results = []
    for name in ("fastattn", "eager"):
        model.set_attn_implementation(name)
        results.append(run(model))
    return results[0], results[1]


def _agree(model: Model, run: Callable[[Model], torch.Tensor]) -> None:
    ours, eager = _both(model, run)
    assert eager.std() > 0.1  # there is something to compare
    torch.testing.assert_close(ours, eager, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    "run", [_full, _left_padded, _dynamic, _static], ids=lambda run: run.__name__
)
def test_causal_models(model: Model, run: Callable[[Model], torch.Tensor]) -> None:
    """Prompts, caches and windows of each kind of decoder."""
    _agree(model, run)


def test_sampled_tokens(model: Model) -> None:
    """`generate` draws the same tokens."""
    ours, eager = _both(model, _sampled)
    assert ours.tolist() == eager.tolist()


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_masks_of_the_user(dtype: torch.dtype) -> None:
    """4-D masks reach the call as they are; one that is added may be finite everywhere."""
    model = _random(AutoModelForCausalLM, CAUSAL["llama"])
    mask = torch.rand(2, 1, 18, 18, generator=torch.Generator().manual_seed(3)) < 0.7
    mask |= torch.eye(18, dtype=torch.bool)
    added = torch.where(mask, 0.0, torch.finfo(torch.float32).min)

    def run(model: Model) -> torch.Tensor:
        is_ours = model.config._attn_implementation == "fastattn"
        given = mask if is_ours and dtype == torch.bool else added
        return model(_tokens(2, 18), attention_mask=given).logits

    _agree(model, run)


def test_packed_sequences() -> None:
    """Positions that start anew separate sequences, in each row by themselves."""
    model = _random(AutoModelForCausalLM, CAUSAL["llama"])
    positions = torch.cat([torch.arange(7), torch.arange(11)])[None]
    _agree(
        model, lambda model: model(_tokens(1, 18), position_ids=positions, use_cache=False).logits
    )


def test_decoder_that_sees_both_ways() -> None:
    """The configuration overrides what the module says of itself."""
    config = copy.deepcopy(CAUSAL["llama"])
    config.is_causal = False
    _agree(_random(AutoModelForCausalLM, config), _full)


def test_t5() -> None:
    """`position_bias` with padded prompts, cross-attention and a cache."""
    config = transformers.T5Config(
        vocab_size=99, d_model=64, d_kv=16, d_ff=96, num_layers=2, num_heads=4,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=2,
    )  # fmt: skip
    model = _random(AutoModelForSeq2SeqLM, config)
    padding = _padding(18, 5).flip(1)

    def logits(model: Model) -> torch.Tensor:
        return model(_tokens(2, 18), padding, decoder_input_ids=_tokens(2, 9)).logits

    def generated(model: Model) -> torch.Tensor:
        options = {"max_new_tokens": 6, "output_logits": True, "return_dict_in_generate": True}
        return torch.stack(model.generate(_tokens(2, 18), attention_mask=padding, **options).logits)

    _agree(model, logits)
    _agree(model, generated)


@pytest.mark.parametrize("masked", [0, 7])
@pytest.mark.parametrize(
    "config",
    [
        transformers.BertConfig(**SMALL),
        transformers.ModernBertConfig(
            **SMALL | {"cls_token_id": 1, "sep_token_id": 2}, local_attention=6
        ),
    ],
    ids=lambda config: config.model_type,
)
def test_encoders(config: Any, masked: int) -> None:
    """Whole and padded sequences; windows to both sides."""
    visible = _padding(18, masked).flip(1)

    def run(model: Model) -> torch.Tensor:
        return model(_tokens(2, 18), attention_mask=visible).last_hidden_state[visible.bool()]

    _agree(_random(AutoModel, config), run)


def test_vit() -> None:
    """A vision model: neither masks nor causality."""
    config = transformers.ViTConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        image_size=32, patch_size=8,
    )  # fmt: skip
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    _agree(_random(AutoModel, config), lambda model: model(pixels).last_hidden_state)


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss"])
def test_bfloat16(name: str) -> None:
    """As near to float32 as "eager" is."""
    model = _random(AutoModelForCausalLM, CAUSAL[name])
    exact = _both(model, _full)[1]
    ours, eager = (logits.float() for logits in _both(model.to(torch.bfloat16), _full))
    assert (ours - exact).norm() <= 1.2 * (eager - exact).norm()


def test_a_mask_only_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts, chunks and tokens of a dynamic cache have none; an empty static cache does."""
    model = _random(AutoModelForCausalLM, CAUSAL["llama"], attn_implementation="fastattn")
    seen = []
    forward = transformers.AttentionInterface()["fastattn"]

    def spy(module: Any, q: Any, k: Any, v: Any, mask: torch.Tensor | None, **rest: Any) -> Any:
        seen.append(None if mask is None else tuple(mask.shape))
        return forward(module, q, k, v, mask, **rest)

    monkeypatch.setitem(transformers.AttentionInterface._global_mapping, "fastattn", spy)
    _full(model)
    _dynamic(model)
    assert {*seen} == {None}
    seen.clear()
    _static(model)
    assert {*seen} == {(2, 1, rows, 24) for rows in (12, 5, 1)}


ARGUMENTS = {"module": torch.nn.Module(), "attention_mask": None} | dict.fromkeys(
    ("query", "key", "value"), torch.ones(1, 2, 3, 4)
)


@pytest.mark.parametrize(
    "refused",
    [
        {"dropout": 0.1},
        {"cache": object()},
        {"output_attentions": True},
        {"indices": torch.zeros(1, 3, 2)},
        {"block_indices": torch.zeros(1, 3, 2)},
        {"sinks": torch.zeros(1, 2, 3, 1)},
    ],
    ids=lambda refused: next(iter(refused)),
)
def test_refusals(refused: dict[str, Any]) -> None:
    """What would change the result is not ignored, and the message says what to do."""
    call = transformers.AttentionInterface()["fastattn"]
    call(**ARGUMENTS, **dict.fromkeys(refused), use_cache=True)
    with pytest.raises(FastattnError, match=f"`{next(iter(refused))}`.*Fix: "):
        call(**ARGUMENTS, **refused)


def test_compiled() -> None:
    """One node of one graph, in the layout that models expect."""
    call = transformers.AttentionInterface()["fastattn"]
    module, q, sinks = torch.nn.Module(), torch.randn(1, 4, 5, 8), torch.randn(4)
    keys = torch.randn(1, 2, 9, 8)

    def layer(q: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        return call(module, q, keys, keys, None, softcap=2.0, s_aux=sinks)[0]

    with torch.inference_mode(False):
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        result, expected = compiled(q.clone(), keys.clone()), layer(q, keys)
    assert result.is_contiguous()
    torch.testing.assert_close(result, expected)


def test_learned_queries() -> None:
    """One set of them may serve a whole batch."""
    call = transformers.AttentionInterface()["fastattn"]
    q, k = torch.randn(1, 2, 3, 4), torch.randn(5, 2, 6, 4)
    result, _ = call(torch.nn.Module(), q, k, k, None, is_causal=False)
    expected = torch.nn.functional.scaled_dot_product_attention(q.expand(5, -1, -1, -1), k, k)
    torch.testing.assert_close(result, expected.transpose(1, 2))


def test_gradients_are_refused() -> None:
    """In training, or if the caller forgets to switch them off."""
    model = _random(AutoModelForCausalLM, CAUSAL["gpt_oss"], attn_implementation="fastattn")
    with torch.inference_mode(False), pytest.raises(FastattnError, match="inference_mode"):
        model(_tokens(1, 4).clone())
    with torch.inference_mode(False), torch.no_grad():
        model(_tokens(1, 4).clone())


@pytest.mark.parametrize("name", ["", "sdpa_fastattn", "paged|fastattn", "Flash"])
def test_names_that_transformers_treats_as_its_own(name: str) -> None:
    with pytest.raises(FastattnError, match="`name`"):
        fastattn.transformers.register(name)


def test_an_import_changes_nothing() -> None:
    assert not REGISTERED_BY_IMPORT


def test_examples() -> None:
    """Of the module and of `register`."""
    with torch.inference_mode(False):
        result = doctest.testmod(sys.modules["fastattn.transformers"])
    assert result.attempted > 8
    assert result.failed == 0
