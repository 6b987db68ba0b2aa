"""Look for faults with drawn calls: of the C++ driver under libFuzzer, and of `fastattn.attention`.

``make fuzz SECONDS=60`` runs both parts for that long each, and prints the calls that were made,
the coverage that was reached and the seed.  What fails is printed with what repeats it.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis
import oracle
from hypothesis import HealthCheck, Phase, given, settings
from strategies import Call, calls
from targets import RUNNABLE
from test_build import ROWS, SETUP, SOURCES, here, source

TESTS = Path(__file__).resolve().parent
BUILD = TESTS.parent / "build" / "fuzz"
COMPILERS = ("clang++", *(f"clang++-{version}" for version in range(22, 14, -1)))
SANITIZERS = "address,undefined"
FLAGS = ("-O1", "-g1", "-fno-omit-frame-pointer", "-fno-sanitize-recover=undefined")
# Of the kernels: checks of every pointer would take Clang many minutes to compile, and find little
# that the other sanitizer does not.
KERNEL_FLAGS = ("-fno-sanitize=null,alignment,object-size,pointer-overflow",)
# Leaks are looked for at the end of each run: tracing what each input allocates takes half the
# time.  An alternate signal stack of the sanitizer's would be too small for the tiles of AMX.
OPTIONS = {"ASAN_OPTIONS": "use_sigaltstack=0", "UBSAN_OPTIONS": "print_stacktrace=1"}


def compiler() -> str | None:
    """The first Clang that links libFuzzer; None if there is none."""
    BUILD.mkdir(parents=True, exist_ok=True)
    empty = BUILD / "empty.cpp"
    empty.write_text(
        '#include <cstddef>\nextern "C" int LLVMFuzzerTestOneInput(const char*, size_t) '
        "{ return 0; }\n"
    )
    for name in filter(shutil.which, (os.environ.get("FUZZ_CXX", COMPILERS[0]), *COMPILERS)):
        command = [name, "-std=c++20", f"-fsanitize=fuzzer,{SANITIZERS}", empty]
        command += ["-o", BUILD / "empty"]
        if subprocess.run(command, capture_output=True).returncode == 0:
            return name
    return None


def build(clang: str) -> Path:
    """Compile the driver, each kernel set and the harness with sanitizers."""
    rows = [isa for isa in ROWS if here(isa)]
    (BUILD / "isa_table.inc").write_text("".join(f"FASTATTN_ISA({isa.name})\n" for isa in rows))
    flags = [*SETUP.COMMON_FLAGS, *FLAGS, "-pthread", f"-I{BUILD}", f"-I{SOURCES}"]
    flags.append(f"-fsanitize=fuzzer-no-link,{SANITIZERS}")
    jobs = [(source(isa), [*SETUP.ISA_FLAGS, *isa.flags, *KERNEL_FLAGS]) for isa in rows]
    plain = ("dispatch", "cpu", "driver", "pool", "threads")
    jobs += [(SOURCES / f"{name}.cpp", []) for name in plain]
    jobs.append((TESTS / "fuzz_attention.cpp", ["-O2"]))

    def compiled(job: tuple[Path, list[str]]) -> Path:
        path, more = job
        target = BUILD / f"{path.stem}.o"
        subprocess.run([clang, *flags, *more, "-c", path, "-o", target], check=True)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, jobs))
    program = BUILD / "fuzz_attention"
    link = [clang, f"-fsanitize=fuzzer,{SANITIZERS}", "-pthread", *objects, "-o", program]
    subprocess.run(link, check=True)
    return program


def fuzz_kernels(seconds: int, seed: int) -> bool:
    """Run libFuzzer; whether no input failed."""
    clang = compiler()
    if clang is None:
        print("kernels: not fuzzed, for want of a Clang with libFuzzer.  Fix: install clang")
        return True
    program, corpus = build(clang), BUILD / "corpus"
    corpus.mkdir(exist_ok=True)
    command = [program, corpus, f"-max_total_time={seconds}", f"-seed={seed}", "-max_len=160"]
    command += ["-print_final_stats=1", "-detect_leaks=0", f"-artifact_prefix={BUILD}/"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | OPTIONS)
    print(done.stdout, end="")
    edges = re.search(r"\((\d+) inline 8-bit counters\)", done.stderr)
    reached = re.findall(r"cov: (\d+)", done.stderr)
    if edges and reached:
        print(f"kernels: {reached[-1]} of {edges[1]} edges of the control flow reached")
    if done.returncode:
        print(done.stderr[-8000:])
        print(f"kernels: failed; to repeat it: {program} {BUILD}/crash-...")
    return done.returncode == 0


def fuzz_calls(seconds: int, seed: int) -> bool:
    """Draw calls for every implementation; whether all were right."""
    made, end = 0, time.monotonic() + seconds

    def check(call: Call) -> None:
        nonlocal made
        if time.monotonic() > end:
            return
        expected = oracle.expect(*call.arrays, **call.arguments)
        for target in RUNNABLE:
            if target.serves(call.arrays[0].dtype):
                got = target.both(*call.arrays, tunables=call.tunables, **call.arguments)
                oracle.assert_expected(got, expected, call.arrays[0].dtype)
                made += 1

    profile = settings(
        max_examples=500,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    fine = True
    while fine and time.monotonic() < end:
        try:
            profile(hypothesis.seed(seed)(given(call=calls())(check)))()
        except Exception as error:
            print(f"calls: {error}", *getattr(error, "__notes__", ()), sep="\n")
            fine = False
        seed += 1
    print(f"calls: {made} of fastattn.attention, of {', '.join(t.name for t in RUNNABLE)}")
    return fine


PARTS = {"kernels": fuzz_kernels, "calls": fuzz_calls}


def main() -> int:
    """Run the parts that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, prog="make fuzz")
    parser.add_argument("parts", nargs="*", default=list(PARTS), help="kernels, calls: both")
    parser.add_argument("--seconds", type=int, default=60, help="of each part")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 2**31))
    how = parser.parse_args()
    print(f"seed: {how.seed}", flush=True)
    fine = [PARTS[part](how.seconds, how.seed) for part in how.parts]
    return int(not all(fine))


if __name__ == "__main__":
    sys.exit(main())
