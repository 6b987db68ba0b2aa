"""The command ``fastattn``: ``info`` and ``explain``.  The only file that prints."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence

import numpy as np

from fastattn._api import explain
from fastattn._dtypes import DTYPES
from fastattn._errors import ArgumentError, FastattnError, UnavailableError, teach
from fastattn._machine import machine
from fastattn._roofline import roofline
from fastattn._version import __version__
from fastattn.implementations import REGISTRY, implementations, load

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 0, or 2 where the call is refused."""
    options = _parser().parse_args(arguments)
    try:
        print(options.command(options))
    except FastattnError as error:
        print(f"fastattn: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastattn", description="Exact scaled-dot-product attention for NumPy on CPUs."
    )
    parser.add_argument("--version", action="version", version=f"fastattn {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    info = commands.add_parser("info", help="what this machine is, and what can run on it")
    info.set_defaults(command=_info)
    info.add_argument("--roofline", action="store_true", help="measure what it can do at most")
    info.add_argument("--isa", metavar="NAME", help="instruction set of the roofline")

    explained = commands.add_parser("explain", help="how a call would be computed, and why")
    explained.set_defaults(command=_explain)
    explained.add_argument("--shape", required=True, metavar="B,Hq,Hkv,Lq,Lk,D[,Dv]")
    explained.add_argument("--dtype", default="float32", metavar="NAME", help=", ".join(DTYPES))
    explained.add_argument("--causal", action="store_true", help="causal, aligned bottom-right")
    explained.add_argument("--impl", default="auto", help=f"auto, {', '.join(REGISTRY)}")
    return parser


def _info(options: argparse.Namespace) -> str:
    if options.isa is not None and not options.roofline:
        raise ArgumentError(
            teach("--isa", options.isa, "it with --roofline", "add --roofline or leave it out")
        )
    measured = ["", *_roofline(options.isa)] if options.roofline else []
    here = machine()
    caches = ", ".join(f"{name} {size // 1024} KiB" for name, size in here.caches_bytes.items())
    usable = [
        f"  {name:<9} {load(name).SUMMARY}" if reason is None else f"  {name:<9} no: {reason}"
        for name, reason in implementations().items()
    ]
    isas = [f"  {name:<9} yes" for name in here.isas]
    isas += [f"  {name:<9} no: {reason}" for name, reason in here.missing_isas.items()]
    return "\n".join(
        [
            f"fastattn {__version__}, NumPy {np.__version__}",
            "",
            f"processor   {here.processor} ({here.architecture})",
            f"caches      {caches or 'unknown'}",
            f"CPUs        {here.cpus}, of which this process may use {here.usable_cpus}",
            "",
            "implementations, in the order impl='auto' prefers them",
            *usable,
            "",
            "instruction sets of the cython implementation, best first",
            *isas,
            *measured,
        ]
    )


def _roofline(isa: str | None) -> list[str]:
    """Table of the limits on 1, 2, 4, ... threads up to the usable CPUs."""
    usable = machine().usable_cpus
    counts = [*itertools.takewhile(lambda n: n < usable, (2**i for i in itertools.count())), usable]
    rows = []
    for threads in counts:
        _progress(f"roofline: {threads} of {usable} threads")
        rows.append(roofline(isa, threads))
    _progress("")
    words = [
        f"  {roof.threads:7} {roof.fma_flops_per_second['float32'] / 1e9:16.1f}"
        f" {roof.fma_flops_per_second['float64'] / 1e9:16.1f}"
        f" {roof.stream_bytes_per_second / 1e9:12.1f} {roof.l2_bytes_per_second / 1e9:9.1f}"
        for roof in rows
    ]
    return [
        f"roofline of {rows[0].isa}: the most that all threads together reached",
        "  threads  float32 GFLOP/s  float64 GFLOP/s  memory GB/s   L2 GB/s",
        *words,
    ]


def _progress(text: str) -> None:
    """Show what is under way, over what was shown before; nothing unless someone looks on."""
    if sys.stderr.isatty():
        print(f"\r{text:40}\r", end="", file=sys.stderr, flush=True)


def _explain(options: argparse.Namespace) -> str:
    q, k, v = _arrays(options.shape, options.dtype)
    return str(explain(q, k, v, causal=options.causal, align="bottom_right", impl=options.impl))


def _arrays(shape: str, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Arrays of that shape that take no memory."""
    try:
        axes = [int(part) for part in shape.split(",")]
    except ValueError:
        axes = []
    if len(axes) not in (6, 7) or min(axes) < 0:
        raise ArgumentError(
            teach(
                "--shape",
                repr(shape),
                "6 or 7 whole numbers from 0 up: B,Hq,Hkv,Lq,Lk,D[,Dv]",
                "write --shape 1,8,8,2048,2048,64",
            )
        )
    batch, heads_q, heads_kv, length_q, length_k, dim, dim_v = (*axes, axes[5])[:7]
    zero = np.zeros((), _dtype(dtype))
    return (
        np.broadcast_to(zero, (batch, heads_q, length_q, dim)),
        np.broadcast_to(zero, (batch, heads_kv, length_k, dim)),
        np.broadcast_to(zero, (batch, heads_kv, length_k, dim_v)),
    )


def _dtype(name: str) -> np.dtype:
    if name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError:
            raise UnavailableError(
                teach("--dtype", name, ", ".join(DTYPES), "pip install ml_dtypes")
            ) from None
        dtype: np.dtype = np.dtype(ml_dtypes.bfloat16)
        return dtype
    if name not in DTYPES:
        raise ArgumentError(teach("--dtype", repr(name), ", ".join(DTYPES), "correct the name"))
    return np.dtype(name)


if __name__ == "__main__":
    sys.exit(main())
