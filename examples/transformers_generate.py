"""Prompt and decoding speed of a random transformer, with each attention implementation.

A model with random weights reads a long prompt and then generates tokens, greedily.  This is
measured with each implementation alternately, so that other load on the machine affects all of them
alike.  Nothing is downloaded::

    pip install ".[transformers]"
    python examples/transformers_generate.py
    python examples/transformers_generate.py --model gemma2 --prompt 1024 --dtype bfloat16
    python examples/transformers_generate.py --help
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers

import fastattn.transformers

MODELS = {
    "llama": transformers.LlamaConfig,
    "gemma2": transformers.Gemma2Config,  # windows, softcap
    "gpt_oss": transformers.GptOssConfig,  # windows, sinks
}
OPTIONS: dict[str, dict[str, Any]] = {
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2},
}


@dataclass(slots=True)
class Times:
    """Seconds of one implementation: of each prompt, and of each generated token."""

    prompt: list[float] = field(default_factory=list)
    token: list[float] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table; the exit status is 1 if results differ."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()  # about rotary embeddings of such sizes
    fastattn.transformers.register()
    model = random_model(options)
    tokens = torch.randint(1, options.vocabulary, (options.batch, options.prompt))
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(
        f"{options.model}: {parameters:.0f} M parameters, {options.dtype}, "
        f"{options.prompt} tokens, {torch.get_num_threads()} threads"
    )
    names = usable(model, options.implementations)
    times = {name: Times() for name in names}
    logits: dict[str, torch.Tensor] = {}
    for i in range(-1, options.rounds):  # the first round is not timed
        for name in names[i % len(names) :] + names[: i % len(names)]:
            show(f"round {i + 1} of {options.rounds}: {name}")
            model.set_attn_implementation(name)
            logits[name] = run(model, tokens, options.tokens, times[name] if i >= 0 else Times())
    show("")
    print(table(times, options))
    return compare({name: logits[name] for name in names}, options.dtype)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the options; with the defaults, the program takes about a minute."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", choices=MODELS, default="llama")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--kv-heads", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=2048, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=32, help="tokens to generate")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="default: as many as PyTorch chooses")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument(
        "--implementations", nargs="+", default=["eager", "sdpa", "fastattn"], metavar="NAME"
    )
    return parser.parse_args(arguments)


def random_model(options: argparse.Namespace) -> Any:
    """Create a model with random weights."""
    config = MODELS[options.model](
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        intermediate_size=options.hidden * 11 // 4,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.kv_heads,
        head_dim=options.hidden // options.heads,
        max_position_embeddings=options.prompt + options.tokens,
        **OPTIONS.get(options.model, {}),
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        config, dtype=getattr(torch, options.dtype), attn_implementation="fastattn"
    )
    return model.eval()


def usable(model: Any, names: list[str]) -> list[str]:
    """Return the implementations that the model supports; print the others, with the reason."""
    found = []
    for name in names:
        try:
            model.set_attn_implementation(name)
            found.append(name)
        except ValueError as error:
            print(f"without {name}: {str(error).partition('. ')[0]}")
    return found


@torch.inference_mode()
def run(model: Any, tokens: torch.Tensor, count: int, times: Times) -> torch.Tensor:
    """Read a prompt and generate tokens; the logits of the prompt's last token."""
    cache = transformers.DynamicCache(config=model.config)
    start = time.perf_counter()
    result = model(tokens, cache=cache, logits_to_keep=1)
    times.prompt.append(time.perf_counter() - start)
    prompt_logits = result.logits[:, -1]
    for _ in range(count):
        start = time.perf_counter()
        token = result.logits[:, -1:].argmax(-1)
        result = model(token, cache=cache)
        times.token.append(time.perf_counter() - start)
    return prompt_logits.float()


def table(times: dict[str, Times], options: argparse.Namespace) -> str:
    """Medians as tokens per second, and how many times as fast as the first row."""
    lines = [f"{'':<12}{'prompt, tokens/s':>22}{'decoding, tokens/s':>26}"]
    base: list[float] = []
    for name, each in times.items():
        seconds = [statistics.median(each.prompt), statistics.median(each.token)]
        base = base or seconds
        speeds = [options.batch * options.prompt / seconds[0], options.batch / seconds[1]]
        ratios = [f"({b / s:.2f} x)" for b, s in zip(base, seconds, strict=True)]
        lines.append(
            f"{name:<12}{speeds[0]:>13.0f} {ratios[0]:>8}{speeds[1]:>17.1f} {ratios[1]:>8}"
        )
    return "\n".join(lines)


def compare(logits: dict[str, torch.Tensor], dtype: str) -> int:
    """Print how much the logits differ; return 1 if that is more than rounding."""
    first, *others = logits
    status = 0
    for name in others:
        error = (logits[name] - logits[first]).abs().max() / logits[first].abs().max()
        print(f"logits of {name} and {first} differ by {error:.1e} of the largest")
        status |= not error <= {"float32": 1e-3}.get(dtype, 0.1)
    return status


def show(text: str) -> None:
    """Show progress, if the error stream is a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
