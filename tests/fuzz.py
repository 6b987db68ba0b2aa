"""Look for faults with drawn calls of the C++ driver, under sanitizers, and of `attention`.

``make fuzz SECONDS=60`` runs `kernels` and `calls` for that long each, and prints the calls that
were made, the coverage that was reached and the seed.  What fails is printed with what repeats it.
Other parts are run by name: ``make fuzz ARGS="threads"``.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import oracle
from hypothesis import HealthCheck, Phase, given, settings
from strategies import Call, calls
from targets import RUNNABLE
from test_build import ROWS, SETUP, SOURCES, compiler, source

TESTS = Path(__file__).resolve().parent
BUILD = TESTS.parent / "build" / "fuzz"
CLANGS = ("clang++", *(f"clang++-{version}" for version in range(22, 14, -1)))
# The harness is compiled without sanitizers, as it would take half of the time with them: its
# arrays have the sanitizer's guards all the same, since they are allocated on the heap.
SOURCES_OF_HARNESS = ("fuzz_attention.cpp", "fuzz_main.cpp")
# Leaks are looked for at the end of each run: tracing what each input allocates takes half the
# time.  An alternate signal stack of the sanitizer's would be too small for the tiles of AMX.
OPTIONS = {
    "ASAN_OPTIONS": "use_sigaltstack=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}


@dataclass(frozen=True, slots=True)
class Flags:
    """How a part compiles the driver and the kernels, and links them."""

    all: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    link: tuple[str, ...] = ()
    sources: tuple[str, ...] = SOURCES_OF_HARNESS


FLAGS = {
    # Coverage of comparisons would take most of the time, and what the bytes draw is not compared
    # with constants that they would have to guess.  Checks of every pointer in the kernels would
    # take Clang many minutes to compile, and find little that the other sanitizer does not.
    "kernels": Flags(
        (
            *("-O1", "-g1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"),
            *(
                "-fno-sanitize-recover=undefined",
                "-fsanitize-coverage=inline-8bit-counters,pc-table",
            ),
        ),
        ("-fno-sanitize=null,alignment,object-size,pointer-overflow",),
        ("-fsanitize=fuzzer,address,undefined",),
        SOURCES_OF_HARNESS[:1],
    ),
    "threads": Flags(("-O1", "-g1", "-fsanitize=thread"), link=("-fsanitize=thread",)),
    "plain": Flags(),
}


def clang_with_libfuzzer(command: list[str]) -> list[str] | None:
    """The first of this command and the installed versions of Clang that links libFuzzer."""
    BUILD.mkdir(parents=True, exist_ok=True)
    empty = BUILD / "empty.cpp"
    empty.write_text(
        '#include <cstddef>\nextern "C" int LLVMFuzzerTestOneInput(const char*, size_t) '
        "{ return 0; }\n"
    )
    for tried in (command, *([name] for name in CLANGS)):
        if shutil.which(tried[0]):
            full = [*tried, "-std=c++20", *FLAGS["kernels"].link, empty, "-o", BUILD / "empty"]
            if subprocess.run(full, capture_output=True).returncode == 0:
                return tried
    return None


def build(part: str, cxx: list[str]) -> Path:
    """Compile the driver, each kernel set and the harness."""
    flags, folder = FLAGS[part], BUILD / part
    folder.mkdir(parents=True, exist_ok=True)
    machine = subprocess.run([*cxx, "-dumpmachine"], check=True, capture_output=True, text=True)
    architecture = machine.stdout.partition("-")[0]
    rows = [isa for isa in ROWS if not isa.machines or architecture in isa.machines]
    (folder / "isa_table.inc").write_text("".join(f"FASTATTN_ISA({isa.name})\n" for isa in rows))
    common = [*SETUP.COMMON_FLAGS, "-pthread", f"-I{folder}", f"-I{SOURCES}"]
    kernels = [*flags.all, *SETUP.ISA_FLAGS, *flags.kernels]
    plain = ("dispatch", "cpu", "driver", "pool", "threads")
    jobs: list[tuple[Path, Iterable[str]]] = [(source(isa), [*kernels, *isa.flags]) for isa in rows]
    jobs += [(SOURCES / f"{name}.cpp", flags.all) for name in plain]
    jobs += [(TESTS / name, ()) for name in flags.sources]

    def compiled(job: tuple[Path, Iterable[str]]) -> Path:
        path, more = job
        target = folder / f"{path.stem}.o"
        subprocess.run([*cxx, *common, *more, "-c", path, "-o", target], check=True)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, jobs))
    program = folder / "fuzz"
    subprocess.run([*cxx, *flags.link, "-pthread", *objects, "-o", program], check=True)
    return program


def fuzz_kernels(how: argparse.Namespace) -> bool:
    """The driver and each kernel set, by libFuzzer under ASan and UBSan."""
    clang = clang_with_libfuzzer(how.cxx)
    if clang is None:
        print("kernels: not fuzzed, for want of a Clang with libFuzzer.  Fix: install clang")
        return True
    program, corpus = build("kernels", clang), BUILD / "corpus"
    corpus.mkdir(exist_ok=True)
    command = [*how.runner, program, corpus, f"-max_total_time={how.seconds}", f"-seed={how.seed}"]
    # Entropic scheduling would take a fifth of the time, once the corpus is large.
    command += ["-max_len=160", "-entropic=0", "-print_final_stats=1", "-detect_leaks=0"]
    command += [f"-artifact_prefix={BUILD}/"]
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


def fuzz_alone(part: str, how: argparse.Namespace, threads: int) -> bool:
    """The driver and each kernel set on random bytes, without libFuzzer."""
    program = build(part, how.cxx)
    command = [*how.runner, program, str(how.seconds), str(how.seed), str(threads)]
    code = subprocess.run(command, env=os.environ | OPTIONS).returncode
    if code:
        print(f"{part}: failed; to repeat it: {shlex.join(map(str, command))} NUMBER-OF-INPUT")
    return code == 0


def fuzz_threads(how: argparse.Namespace) -> bool:
    """The same from eight threads at once, under ThreadSanitizer."""
    return fuzz_alone("threads", how, threads=8)


def fuzz_plain(how: argparse.Namespace) -> bool:
    """The same without sanitizers, for compilers and machines that have none."""
    return fuzz_alone("plain", how, threads=1)


def fuzz_calls(how: argparse.Namespace) -> bool:
    """`fastattn.attention` of every implementation, beside the oracle."""
    made, end, seed = 0, time.monotonic() + how.seconds, how.seed

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


PARTS = {
    "kernels": fuzz_kernels,
    "calls": fuzz_calls,
    "threads": fuzz_threads,
    "plain": fuzz_plain,
}


def main() -> int:
    """Run the parts that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, prog="make fuzz")
    parser.add_argument("parts", nargs="*", default=["kernels", "calls"], help=", ".join(PARTS))
    parser.add_argument("--seconds", type=int, default=60, help="of each part")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 2**31))
    parser.add_argument("--cxx", type=shlex.split, default=compiler(), help="compiler, with flags")
    parser.add_argument("--runner", type=shlex.split, default=[], help="emulator, with flags")
    how = parser.parse_args()
    print(f"seed: {how.seed}", flush=True)
    fine = [PARTS[part](how) for part in how.parts]
    return int(not all(fine))


if __name__ == "__main__":
    sys.exit(main())
