"""Compare tuned calls with the default, for each workload: ``python -m perf.tuned_calls``.

First `fastattn.tune` runs in a fresh process and stores its winner in a temporary folder.  Then, in
further processes, calls that use this winner are measured alternately with calls that ignore it
(``Config(deterministic=True)``).  This is what a user gets from tuning once: it includes the
look-up, and the default if the tuner kept it or did not store its winner.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from benchmarks import common, oracle, sampling
from benchmarks.child import ask
from benchmarks.common import Case, Profile
from perf import entry
from perf.summary import geometric_mean

CASES = {
    **common.WORKLOADS,
    "few-rows": Case(1, 16, 4, 4, 2048, 128),
    "dim-128": common.dim_case(128, "float32"),
    "dim-512": common.dim_case(512, "float32"),
    "vit-float64": common.WORKLOADS["vit"].of("float64"),
}
MOST = 1.02  # the most that a tuned call may take, over the default's time
TIMEOUT_SECONDS = 300.0


def child(request_json: str) -> None:
    """Answer one request of `measure` on standard output."""
    request = json.loads(request_json)
    case = Case(**request["case"])
    if request["what"] == "tune":
        answer = tuned(case, request["seed"])
    else:
        answer = compared(case, Profile(**request["profile"]), request["seed"])
    print(json.dumps(answer))


def tuned(case: Case, seed: int) -> dict[str, Any]:
    """Tune, and return what came of it."""
    import fastattn

    shape = [case.batch, case.heads_q, case.heads_kv, case.length_q, case.length_k, case.dim]
    result = fastattn.tune(shape, case.dtype, causal=case.causal, seed=seed)
    (winner,) = (one for one in result.rows if "winner" in one.remark)
    return {
        "winner": "default" if "default" in winner.remark else winner.name,
        "not_remembered": result.not_remembered,
        "tuning_time": result.tuning_seconds,
    }


def compared(case: Case, profile: Profile, seed: int) -> dict[str, float]:
    """Time calls with wisdom in turns with calls without; both must agree with the oracle."""
    import fastattn

    inputs = common.inputs(case)
    configs = {"tuned": fastattn.Config(), "default": fastattn.Config(deterministic=True)}
    calls = {
        name: functools.partial(fastattn.attention, *inputs, causal=case.causal, config=config)
        for name, config in configs.items()
    }
    for call in calls.values():
        oracle.relative_error(case, *inputs, call())
    samples = sampling.take_samples(calls, profile, seed=seed)
    return {
        "time": statistics.median(samples["default"]),
        "ratio": sampling.ratio(samples["tuned"], samples["default"]),
    }


def measure(case: Case, profile: Profile, seed: int) -> dict[str, Any]:
    """What a search found, and the ratio of each round.

    Raises
    ------
    RuntimeError
        A process failed, or took too long.
    """
    request = {"case": asdict(case), "profile": asdict(profile)}
    with tempfile.TemporaryDirectory() as folder:
        wisdom = {"FASTATTN_WISDOM": "on", "FASTATTN_WISDOM_DIR": folder}

        def answer(what: str, seed: int) -> Any:
            request_ = request | {"what": what, "seed": seed}
            return ask("perf.tuned_calls", request_, TIMEOUT_SECONDS, wisdom)

        found: dict[str, Any] = answer("tune", seed)
        rounds = [answer("compare", number) for number in range(profile.rounds)]
    return found | {
        "time": statistics.median(one["time"] for one in rounds),
        "ratios": sorted(one["ratio"] for one in rounds),
    }


def row(name: str, found: Mapping[str, Any]) -> str:
    """One row of the table."""
    ratios: Sequence[float] = found["ratios"]
    ratio = statistics.median(ratios)
    remark = "" if ratio <= MOST else "  SLOWER"
    if found["not_remembered"]:
        remark += f"  not remembered: {found['not_remembered']}"
    return (
        f"{name:<12} {1e3 * found['time']:9.3f} {ratio:9.3f}  {ratios[0]:.3f} - {ratios[-1]:.3f}"
        f" {found['tuning_time']:7.1f}  {found['winner']}{remark}"
    )


def main() -> int:
    """Run the command; exit status 1 if a tuned call is slower, 2 if one fails, 130 if stopped."""
    parser = argparse.ArgumentParser(prog="python -m perf.tuned_calls", description=__doc__)
    parser.add_argument("workloads", nargs="*", help=f"default all: {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes for each workload")
    parser.add_argument("--seed", type=int, default=0, help="of the search")
    options = parser.parse_args()
    unknown = set(options.workloads) - set(CASES)
    if unknown:
        parser.error(f"no workload {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: at least 1")
    profile = replace(common.profile(), rounds=options.rounds)
    print("tuned over default: median and range over the rounds\n")
    print(f"{'workload':<12} {'default':>9} {'tuned':>9}  {'':13} {'search':>7}  winner")
    print(f"{'':<12} {'ms':>9} {'over it':>9}  {'':13} {'s':>7}")
    ratios, status = list[float](), 0
    for name in options.workloads or CASES:
        try:
            found = measure(CASES[name], profile, options.seed)
        except RuntimeError as error:
            status = 2
            print(f"{name:<12} failed: {str(error).splitlines()[-1]}", flush=True)
        except KeyboardInterrupt:
            status = 130
            print("\nStopped: this is what there is.")
            break
        else:
            ratios.append(statistics.median(found["ratios"]))
            print(row(name, found), flush=True)
    if ratios:
        mean = geometric_mean(ratios)
        print(f"\ngeometric mean {mean:.3f}, largest {max(ratios):.3f} (bar {MOST})")
    return status or int(any(ratio > MOST for ratio in ratios))


if __name__ == "__main__":
    entry.run(main)
