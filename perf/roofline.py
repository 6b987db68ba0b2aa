"""Fraction of peak of this working tree: ``python -m perf.roofline``, behind ``make roofline``."""

from __future__ import annotations

import argparse
import os
import statistics
from dataclasses import replace

from benchmarks import common, sampling
from benchmarks.common import Case
from benchmarks.roofline import bytes_read, measure, missing, work
from perf import entry


def row(name: str, case: Case, impl: str, cell: sampling.Cell) -> str:
    """One row of the table."""
    head = f"{name:<20} {impl:<7}"
    reason = cell.failed or cell.skipped
    if reason is not None:
        return f"{head} {reason.splitlines()[-1]}"
    seconds = statistics.median(cell.time)
    fractions = sorted(1 / value for value in cell.time_over_peak)
    masked = statistics.median(cell.time_over_unmasked or [float("nan")])
    return (
        f"{head} {1e3 * seconds:9.3f} {work(case) / seconds / 1e9:9.1f}"
        f" {bytes_read(case) / seconds / 1e9:9.1f} {statistics.median(fractions):9.3f}"
        f"  {fractions[0]:.3f} - {fractions[-1]:.3f}"
        + (f"  {masked:.3f} of unmasked" if cell.time_over_unmasked else "")
    )


def limits(threads: int) -> str:
    """What the fractions refer to, measured now; they are measured again beside each call."""
    import fastattn

    roof = fastattn.roofline(threads=threads)
    flops = {name: rate / 1e9 for name, rate in roof.fma_flops_per_second.items()}
    if roof.bfloat16_flops_per_second is None:
        products = f"{roof.isa} has no products of bfloat16, so bfloat16 is compared with float32's"
    else:
        products = (
            f"{roof.bfloat16_flops_per_second / 1e9:.1f} GFLOP/s by products of bfloat16 (in tiles "
            "of random ones), summed in float32: if that is more than by FMA, the peak of "
            "bfloat16.\nA result as exact as one rounding takes three products for two, so 2/3 of "
            "it is the most"
        )
    return (
        f"Limits of {roof.isa}: {flops['float32']:.1f} GFLOP/s in float32 and "
        f"{flops['float64']:.1f} in float64 by FMA; {roof.stream_bytes_per_second / 1e9:.1f} GB/s "
        f"from memory;\n{products}.\n"
    )


def main() -> int:
    """Run the command; exit status 2 if a call is wrong or dies, 130 if stopped."""
    cases = common.REGIMES | common.MASKED
    parser = argparse.ArgumentParser(prog="python -m perf.roofline", description=__doc__)
    parser.add_argument("regimes", nargs="*", help=f"default all: {', '.join(cases)}")
    parser.add_argument("--impl", nargs="+", choices=common.IMPLS, default=["cython"])
    parser.add_argument("--threads", type=int, default=1, help="of each call, default %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes for each regime")
    options = parser.parse_args()
    unknown = set(options.regimes) - set(cases)
    if unknown:
        parser.error(f"no regime {', '.join(sorted(unknown))}; there are {', '.join(cases)}")
    if "numpy" in options.impl and options.threads != common.THREADS:
        parser.error(f"numpy is measured on {common.THREADS} thread")
    os.environ.update(dict.fromkeys(common.BLAS_VARIABLES, str(common.THREADS)) | common.UNTUNED)
    profile = replace(common.profile(), rounds=options.rounds)
    if missing() is None:
        print(limits(options.threads))
    print(f"{options.threads} thread(s); fraction of peak: median and range over the rounds\n")
    print(f"{'regime':<20} {'impl':<7} {'ms':>9} {'GFLOP/s':>9} {'K,V GB/s':>9} {'of peak':>9}")
    failed = False
    try:
        for name in options.regimes or cases:
            found = measure({name: cases[name]}, options.impl, profile, options.threads)
            for (_, impl), cell in found.items():
                print(row(name, cases[name], impl, cell), flush=True)
                failed = failed or cell.failed is not None
    except KeyboardInterrupt:
        print("\nInterrupted; the rows above are complete.")
        return 130
    return 2 if failed else 0


if __name__ == "__main__":
    entry.run(main)
