"""A transformer encoder of BERT's size in plain NumPy, with and without fastattn.

The weights are random, and the sentences have different lengths.  The encoder runs alternately with
attention written by hand and with fastattn.  One matrix product computes queries, keys and values
together; fastattn reads them from its result as views, without a copy::

    pip install .
    python examples/encoder_numpy.py
    python examples/encoder_numpy.py --length 1024 --batch 2 --layers 4
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

import fastattn

Attention = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of a layer; there are no biases, and the norms have neither scale nor shift."""

    qkv: np.ndarray  # (hidden, 3 * hidden)
    out: np.ndarray  # (hidden, hidden)
    up: np.ndarray  # (hidden, 4 * hidden)
    down: np.ndarray  # (4 * hidden, hidden)


def by_hand(q: np.ndarray, k: np.ndarray, v: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Attention as in the paper: scores of all pairs, softmax, weighted sum."""
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1], dtype=q.dtype)
    masked = np.arange(k.shape[2]) >= lengths[:, None, None, None]
    np.copyto(scores, -np.inf, where=masked)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights @ v) / weights.sum(-1, keepdims=True)


def with_fastattn(q: np.ndarray, k: np.ndarray, v: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The same result, without storing the scores."""
    return fastattn.attention(q, k, v, kv_lengths=lengths)


ATTENTION: dict[str, Attention] = {"by hand": by_hand, "fastattn": with_fastattn}


def encode(
    x: np.ndarray, lengths: np.ndarray, layers: list[Layer], heads: int, attention: Attention
) -> tuple[np.ndarray, float]:
    """Apply all layers to embeddings (batch, length, hidden); also return attention's seconds."""
    batch, length, hidden = x.shape
    seconds = 0.0
    for layer in layers:
        qkv = (x @ layer.qkv).reshape(batch, length, 3, heads, hidden // heads)
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # views (batch, heads, length, head size)
        start = time.perf_counter()
        attended = attention(q, k, v, lengths)
        seconds += time.perf_counter() - start
        x = norm(x + attended.swapaxes(1, 2).reshape(x.shape) @ layer.out)
        x = norm(x + gelu(x @ layer.up) @ layer.down)
    return x, seconds


def norm(x: np.ndarray) -> np.ndarray:
    """Layer normalisation."""
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(1e-12))


def gelu(x: np.ndarray) -> np.ndarray:
    """GELU, by its usual approximation."""
    factor = np.float32(np.sqrt(2 / np.pi))
    return x * (1 + np.tanh(factor * x * (1 + np.float32(0.044715) * x * x))) / 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table; the exit status is 1 if results differ."""
    options = parse(arguments)
    rng = np.random.default_rng(0)
    hidden = options.hidden
    layers = [random_layer(rng, hidden) for _ in range(options.layers)]
    x = norm(rng.standard_normal((options.batch, options.length, hidden), dtype=np.float32))
    lengths = rng.integers(options.length // 2, options.length, options.batch, endpoint=True)
    valid = np.arange(options.length) < lengths[:, None]
    print(
        f"{options.layers} layers, hidden {hidden}, {options.heads} heads, "
        f"{options.batch} sentences of {lengths.min()} to {lengths.max()} tokens"
    )
    totals: dict[str, list[float]] = {name: [] for name in ATTENTION}
    attended: dict[str, list[float]] = {name: [] for name in ATTENTION}
    results = {}
    names = list(ATTENTION)
    for i in range(-1, options.rounds):  # the first round is not timed
        for name in names if i % 2 else names[::-1]:
            show(f"round {i + 1} of {options.rounds}: {name}")
            start = time.perf_counter()
            result, seconds = encode(x, lengths, layers, options.heads, ATTENTION[name])
            results[name] = result[valid]
            if i >= 0:
                totals[name].append(time.perf_counter() - start)
                attended[name].append(seconds)
    show("")
    print(table(totals, attended))
    error = np.abs(results["fastattn"] - results["by hand"]).max()
    print(f"results differ by at most {error:.1e}")
    return int(not error <= 1e-3)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the options; with the defaults, the program takes about a minute."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--length", type=int, default=512, help="tokens of the longest sentence")
    parser.add_argument("--batch", type=int, default=4, help="sentences")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args(arguments)


def random_layer(rng: np.random.Generator, hidden: int) -> Layer:
    """Random weights, scaled so that a product has numbers of the size of its input."""

    def weights(rows: int, columns: int) -> np.ndarray:
        return rng.standard_normal((rows, columns), np.float32) / np.sqrt(rows, dtype=np.float32)

    return Layer(
        weights(hidden, 3 * hidden),
        weights(hidden, hidden),
        weights(hidden, 4 * hidden),
        weights(4 * hidden, hidden),
    )


def table(totals: dict[str, list[float]], attended: dict[str, list[float]]) -> str:
    """Median times, and how many times as fast as the first row they are."""
    lines = [f"{'attention':<12}{'attention, ms':>22}{'whole encoder, ms':>26}"]
    base: list[float] = []
    for name in totals:
        seconds = [statistics.median(each[name]) for each in (attended, totals)]
        base = base or seconds
        inner, outer = (
            f"{1e3 * s:.1f} {f'({b / s:.2f} x)':>8}" for s, b in zip(seconds, base, strict=True)
        )
        lines.append(f"{name:<12}{inner:>22}{outer:>26}")
    return "\n".join(lines)


def show(text: str) -> None:
    """Show progress, if the error stream is a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
