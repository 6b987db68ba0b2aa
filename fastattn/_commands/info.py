"""``fastattn info``: what this machine is, and what can run on it."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable

import numpy as np

from fastattn._errors import ArgumentError
from fastattn._machine import machine
from fastattn._roofline import Roofline, roofline
from fastattn._threads import threading_backend
from fastattn._version import __version__
from fastattn.implementations import implementations, load

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "describe this machine, and which implementations can run on it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whether to measure, and with what."""
    parser.add_argument("--roofline", action="store_true", help="also measure the machine's limits")
    parser.add_argument(
        "--isa", metavar="NAME", help="with --roofline: the instruction set, default the best"
    )


def run(options: argparse.Namespace, progress: Callable[[str], None]) -> str:
    """Version, machine, implementations and instruction sets; on request the roofline."""
    if options.isa is not None and not options.roofline:
        raise ArgumentError(
            "--isa", options.isa, "it with --roofline", "add --roofline or leave it out"
        )
    measured = ["", *_roofline(options.isa, progress)] if options.roofline else []
    here = machine()
    caches = ", ".join(f"{name} {_size(size)}" for name, size in here.caches_bytes.items())
    usable = [
        f"  {name:<9} {load(name).SUMMARY}" if reason is None else f"  {name:<9} no: {reason}"
        for name, reason in implementations().items()
    ]
    isas = [f"  {name:<11} {_served(name)}" for name in here.isas]
    isas += [f"  {name:<11} no: {reason}" for name, reason in here.missing_isas.items()]
    return "\n".join(
        [
            f"fastattn {__version__}, NumPy {np.__version__}",
            "",
            f"processor   {here.processor} ({here.architecture})",
            f"caches      {caches or 'unknown'}",
            f"CPUs        {here.cpus}, of which this process may use {here.usable_cpus}",
            f"threading   {' ('.join(threading_backend())})",
            "",
            "implementations, in the order in which impl='auto' prefers them",
            *usable,
            "",
            "instruction sets of the implementation cython, best first: operation and data types",
            *isas,
            *measured,
        ]
    )


def _size(size: int) -> str:
    """A number of bytes in KiB, or in MiB from 4 MiB on."""
    return f"{size >> 20} MiB" if size >= 4 << 20 else f"{size >> 10} KiB"


def _served(isa: str) -> str:
    """Operations and data types for which an instruction set has kernels."""
    return "; ".join(
        f"{operation}: {', '.join(name for name, isas in served.items() if isa in isas)}"
        for operation, served in machine().kernels.items()
    )


def _roofline(isa: str | None, progress: Callable[[str], None]) -> list[str]:
    """Table of the limits on 1, 2, 4, ... threads up to the usable CPUs."""
    usable = machine().usable_cpus
    counts = [*itertools.takewhile(lambda n: n < usable, (2**i for i in itertools.count())), usable]
    rows = []
    for threads in counts:
        progress(f"roofline: {threads} of {usable} threads")
        rows.append(roofline(isa, threads))
    progress("")
    lines = [
        f"  {roof.threads:7} {roof.fma_flops_per_second['float32'] / 1e9:16.1f}"
        f" {roof.fma_flops_per_second['float64'] / 1e9:16.1f} {_products(roof):>17}"
        f" {roof.stream_bytes_per_second / 1e9:12.1f} {roof.l2_bytes_per_second / 1e9:9.1f}"
        for roof in rows
    ]
    return [
        f"roofline of {rows[0].isa}: the highest rates of all threads together",
        "  threads  float32 GFLOP/s  float64 GFLOP/s  bfloat16 GFLOP/s  memory GB/s   L2 GB/s",
        *lines,
        *_explanations(rows[0]),
    ]


def _products(roof: Roofline) -> str:
    rate = roof.bfloat16_flops_per_second
    return "-" if rate is None else f"{rate / 1e9:.1f}"


def _explanations(roof: Roofline) -> list[str]:
    """What the column bfloat16 is."""
    if roof.bfloat16_flops_per_second is None:
        return [f"  bfloat16: {roof.isa} has no products of bfloat16; it computes in float32"]
    return ["  bfloat16: products of bfloat16 numbers, summed in float32"]
