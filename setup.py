"""Build the compiled extension: one Cython module, and one object for each instruction set.

The metadata is in pyproject.toml.  This file has `ISAS`, the table of instruction sets, and
the build_ext that compiles each row with its own flags.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

try:  # setuptools >= 70.1 has its own
    from setuptools.errors import CompileError
except ImportError:
    from distutils.errors import CompileError

SOURCES = Path("src_cpp")


@dataclass(frozen=True)
class Isa:
    """One instruction set: the flags for compiling its object, and where that makes sense."""

    name: str
    flags: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()  # values of platform.machine(); () = any
    folder: Path = SOURCES / "isa"  # of its source, NAME.cpp


AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512")
AVX512_BF16 = (*AVX512, "-mavx512bf16")
AMX = (*AVX512_BF16, "-mamx-tile", "-mamx-bf16")
X86_64 = ("x86_64", "AMD64")

# Best first: the order is the preference at run time.
ISAS = (
    Isa("amx", AMX, X86_64),
    Isa("avx512_bf16", AVX512_BF16, X86_64),
    Isa("avx512", AVX512, X86_64),
    Isa("avx2", AVX2, X86_64),
    Isa("baseline"),
)

# Only for tests, in a build with FASTATTN_TEST_KERNELS=1.  After `baseline`, which has all kernels,
# so that none is ever chosen that a caller does not name.
TEST_ISAS = tuple(
    Isa(name, AVX2, X86_64, Path("tests")) for name in ("amx_model", "avx512_bf16_model")
)


def isa_table(tests: bool) -> tuple[Isa, ...]:
    """Rows of the table that a build writes, best first."""
    return (*ISAS, *(TEST_ISAS if tests else ()))


# NaN, infinity, signed zeros and the order of sums are data, whatever the shell's flags say.  They
# come before these, when linking as well: -Ofast would add code that makes a process flush
# subnormal numbers.
EXACT_FLAGS = ("-O3", "-fno-fast-math", "-fno-unsafe-math-optimizations")
INEXACT = re.compile(r"-m?daz-ftz|-fdenormal-fp-math=(?!ieee)|-ff?p-model=(?!precise|strict)")
PROBE = """
#include <barrier>
#include <concepts>
#if defined(__FAST_MATH__) || __FINITE_MATH_ONLY__ + 0 || defined(__NO_SIGNED_ZEROS__)
#error the flags let the compiler pass over NaN, infinity or signed zeros
#endif
static_assert(__cplusplus >= 202002L, "this is no compiler for C++20");
"""

COMMON_FLAGS = (
    "-std=c++20",
    *EXACT_FLAGS,
    "-fvisibility=hidden",
    "-fno-lto",  # a link-time optimiser could inline ISA code where it must not run
    "-g0",  # Python's own flags may ask for debug data: slow, and most of the file's size
    "-Wall",
    "-Wextra",
)
# Of the flags that -ffast-math bundles, only those that leave NaN, infinity and signed zeros alone.
ISA_FLAGS = (
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-math-errno",
    "-fno-trapping-math",
    # A tile's loop that begins in the middle of a cache line needs one more line to be fetched,
    # which shows if a neighbour shares the core.  Unaligned, it begins wherever the code before
    # it happens to end.
    "-falign-functions=64",
    "-falign-loops=64",
    "-Wno-psabi",  # vectors as arguments: all of these functions are inlined
    "-Wno-uninitialized",  # GCC bug 105593: _mm512_undefined_ps
)


class BuildExt(build_ext):
    """build_ext that first compiles each ISA row and links the objects in."""

    def build_extension(self, ext: Extension) -> None:
        generated = Path(self.build_temp) / "isa"
        generated.mkdir(parents=True, exist_ok=True)
        extra = tuple(shlex.split(os.environ.get("FASTATTN_CXXFLAGS", "")))
        self._check_compiler(extra)
        openmp = self._openmp_flags()
        isas = isa_table(tests=os.environ.get("FASTATTN_TEST_KERNELS") == "1")
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # each thread waits for a compiler process
            compiled = list(pool.map(lambda isa: self._compile_isa(isa, ext, extra), isas))
        lines = []
        for isa, (objects, refusal) in zip(isas, compiled, strict=True):
            ext.extra_objects += objects
            if refusal is None:
                lines.append(f"FASTATTN_ISA({isa.name})")
            else:
                self.warn(f"{isa.name}: {refusal}")
                lines.append(f'FASTATTN_NO_ISA({isa.name}, "{refusal}")')
        table = "\n".join(lines) + "\n"
        if not (path := generated / "isa_table.inc").exists() or path.read_text() != table:
            path.write_text(table)
        ext.include_dirs.append(str(generated))
        ext.extra_compile_args = [*COMMON_FLAGS, "-pthread", *openmp, *extra]
        ext.extra_link_args = ["-pthread", *EXACT_FLAGS, *openmp, *extra]
        self.force = True  # setuptools does not know what the objects were made from
        super().build_extension(ext)

    def _check_compiler(self, extra: tuple[str, ...]) -> None:
        """Refuse a compiler or flags with which the kernels would be wrong."""
        reason = " ".join(filter(INEXACT.match, [*self.compiler.compiler_so, *extra]))
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "probe.cpp"
            source.write_text(PROBE)
            try:
                self.compiler.compile(
                    [str(source)], output_dir=folder, extra_postargs=[*COMMON_FLAGS, *extra]
                )
            except CompileError:
                reason = reason or "see the compiler's words above"
        if reason:
            raise CompileError(
                "fastattn needs C++20 (GCC 12, Clang 15 or newer) and IEEE arithmetic, without "
                f"-ffast-math and the like: {reason}. Fix: correct CC and CXX, or CFLAGS, CXXFLAGS "
                "and FASTATTN_CXXFLAGS"
            )

    def _compile_isa(
        self, isa: Isa, ext: Extension, extra: tuple[str, ...]
    ) -> tuple[list[str], str | None]:
        """Compile one row; returns its object, or the reason why there is none."""
        if isa.machines and platform.machine() not in isa.machines:
            return [], f"only for {' and '.join(isa.machines)}"
        try:
            objects = self.compiler.compile(
                [str(isa.folder / f"{isa.name}.cpp")],
                output_dir=self.build_temp,
                extra_postargs=[*COMMON_FLAGS, *ISA_FLAGS, *isa.flags, *extra],
                depends=ext.depends,
            )
        except CompileError:
            if not isa.flags:
                raise
            return [], "the compiler refused it when fastattn was built"
        return objects, None

    def _openmp_flags(self) -> list[str]:
        """Flags for OpenMP, the second way to share work; none if the compiler lacks it."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "openmp.cpp"
            source.write_text(
                "#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }\n"
            )
            target = str(source.with_suffix(""))
            compiler = [part for part in self.compiler.compiler_so if part != "-c"]
            command = [*compiler, "-fopenmp", str(source), "-o", target]
            if subprocess.run(command, capture_output=True).returncode == 0:
                return ["-fopenmp"]
        self.warn("the compiler has no OpenMP: FASTATTN_THREADING=openmp is refused")
        return []


def extension() -> Extension:
    """The compiled binding, with the C++ that is built for any CPU."""
    import numpy

    headers = sorted(map(str, SOURCES.glob("**/*.hpp")))
    return Extension(
        "fastattn.implementations._native",
        sources=[
            "fastattn/implementations/_native.pyx",
            *sorted(map(str, SOURCES.glob("*.cpp"))),
        ],
        include_dirs=[str(SOURCES), numpy.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
        depends=headers,
        language="c++",
    )


if __name__ == "__main__":
    from Cython.Build import cythonize

    setup(
        ext_modules=cythonize([extension()], language_level=3),
        cmdclass={"build_ext": BuildExt},
    )
