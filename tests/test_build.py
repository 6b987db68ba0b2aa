"""The build of the compiled side: the ISA table, and the law that keeps ISA code apart."""

from __future__ import annotations

import re
import runpy
import subprocess
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest
from processes import run_python

import fastattn
from fastattn import _machine

ROOT = Path(__file__).resolve().parent.parent
SETUP = SimpleNamespace(**runpy.run_path(str(ROOT / "setup.py"), run_name="setup_table"))
SOURCES = ROOT / "src_cpp"
ROWS = (*SETUP.ISAS, *SETUP.TEST_ISAS)
ISA_HEADERS = {"stdint.h", "immintrin.h"}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)


def compiler() -> list[str]:
    """Command of the C++ compiler that the extension is built with."""
    command = sysconfig.get_config_var("CXX") or "c++"
    return str(command).split()


def here(isa: object) -> bool:
    """Whether the row is one for this machine's architecture."""
    return not isa.machines or fastattn.machine().architecture in isa.machines  # type: ignore[attr-defined]


def source(isa: object) -> Path:
    """The file that a row is compiled from."""
    return ROOT / isa.folder / f"{isa.name}.cpp"  # type: ignore[attr-defined]


def reached(path: Path) -> dict[Path, str]:
    """`path` and every project header that it includes, with their texts."""
    found: dict[Path, str] = {}
    open_ = [path.resolve()]
    while open_:
        file = open_.pop()
        if file in found:
            continue
        found[file] = file.read_text()
        open_ += [
            (file.parent / name).resolve()
            for mark, name in INCLUDE.findall(found[file])
            if mark == '"'
        ]
    return found


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Object of each ISA row, compiled with the row's flags but quickly: symbols are the same."""
    folder = tmp_path_factory.mktemp("isa")
    made = {}
    for isa in ROWS:
        if not here(isa):
            continue
        made[isa.name] = folder / f"{isa.name}.o"
        flags = [*SETUP.COMMON_FLAGS, *SETUP.ISA_FLAGS, *isa.flags, "-O0", "-fPIC", "-c"]
        subprocess.run([*compiler(), *flags, source(isa), "-o", made[isa.name]], check=True)
    return made


def test_rows_are_what_the_package_reports() -> None:
    """Every row of ISAS is either runnable or missing for a reason; the order is kept."""
    machine = fastattn.machine()
    reported = set(machine.isas) | set(machine.missing_isas)
    of_tests = {isa.name for isa in SETUP.TEST_ISAS} & reported  # in a build for tests
    names = [isa.name for isa in SETUP.isa_table(tests=bool(of_tests))]
    assert set(names) == reported
    runnable = [row for row in enumerate(names) if row[1] in machine.isas]
    runnable.sort(key=lambda row: not _machine.binding().preferred(row[0]))
    assert list(machine.isas) == [name for _, name in runnable]
    assert all(machine.missing_isas.values())


def test_each_row_has_its_source() -> None:
    """One file for each row, and no other."""
    names = {path.stem for path in (SOURCES / "isa").glob("*.cpp")}
    assert names == {isa.name for isa in SETUP.ISAS}
    assert all(source(isa).is_file() for isa in SETUP.TEST_ISAS)


def test_only_the_tests_build_their_rows() -> None:
    """Not wheels, not the benchmarks; and no call can reach such a row by itself."""
    assert SETUP.isa_table(tests=False) == SETUP.ISAS
    assert SETUP.isa_table(tests=True)[: len(SETUP.ISAS)] == SETUP.ISAS
    assert SETUP.ISAS[-1].name == "baseline"  # it has all kernels
    files = [ROOT / name for name in ("pyproject.toml", "asv.conf.json")]
    files += [
        path for name in ("perf", "benchmarks", ".github") for path in (ROOT / name).rglob("*")
    ]
    files += list((ROOT / "fastattn").rglob("*.py"))
    for path in files:
        if path.suffix in (".py", ".toml", ".json", ".yml"):
            assert "FASTATTN_TEST_KERNELS" not in path.read_text(), path


def test_isa_objects_export_one_constant(objects: dict[str, Path]) -> None:
    """No global, weak or common symbol but the KernelSet: nothing the linker could share."""
    for name, path in objects.items():
        text = subprocess.run(["nm", path], check=True, capture_output=True, text=True).stdout
        rows = [line.split() for line in text.splitlines()]
        defined = {(row[-2], row[-1]) for row in rows if row[-2] not in "Ua-z" and len(row) == 3}
        shared = {symbol for kind, symbol in defined if kind.isupper() or kind in "uvw"}
        assert shared == {f"fastattn_kernels_{name}"}, name
        wanted = {row[-1] for row in rows if row[-2] == "U"}
        allowed = {"memcpy", "memset", "memmove", "_GLOBAL_OFFSET_TABLE_"}
        # A set that refuses rows leaves them to the kernels of a more general one.
        allowed |= {f"fastattn_kernels_{other.name}" for other in ROWS}
        if name in {isa.name for isa in SETUP.TEST_ISAS}:
            allowed |= {"__tls_get_addr"}  # the model's tiles are thread-local
        assert wanted <= allowed, (name, wanted)


def test_isa_objects_run_nothing_at_start(objects: dict[str, Path]) -> None:
    """No dynamic initialiser: it would run on every CPU."""
    for name, path in objects.items():
        text = subprocess.run(
            ["objdump", "-h", path], check=True, capture_output=True, text=True
        ).stdout
        assert ".init_array" not in text, name
        assert ".ctors" not in text, name


def test_isa_code_includes_no_standard_library() -> None:
    """Only fixed-size integers and intrinsics, in an anonymous namespace."""
    for isa in ROWS:
        for path, text in reached(source(isa)).items():
            system = {name for mark, name in INCLUDE.findall(text) if mark == "<"}
            assert system <= ISA_HEADERS, path
            assert "std::" not in text, path
            if path.suffix == ".hpp" and path.name != "abi.hpp":
                assert "namespace {" in text, path


def test_layers_meet_only_at_the_kernel_set() -> None:
    """abi <- simd <- tile <- kernel <- isa; abi <- cpu <- dispatch."""
    allowed = {
        "simd": {"", "simd"},
        "tile": {"", "simd", "tile"},
        "kernel": {"", "simd", "tile", "kernel"},
        "isa": {"simd", "tile", "kernel"},
    }
    plain = {
        "abi.hpp": set(),
        "cpu.hpp": {"abi.hpp"},
        "cpu.cpp": {"cpu.hpp"},
        "dispatch.hpp": {"abi.hpp"},
        "dispatch.cpp": {"dispatch.hpp", "cpu.hpp", "isa_table.inc"},
        "threads.hpp": set(),
        "threads.cpp": {"threads.hpp", "pool.hpp"},
        "affinity.hpp": set(),
        "dlpack.hpp": set(),
        "allocate.hpp": set(),
        "pool.hpp": {"threads.hpp"},
        "pool.cpp": {"pool.hpp", "affinity.hpp", "allocate.hpp"},
        "schedule.hpp": set(),
        "driver.hpp": {"abi.hpp", "threads.hpp"},
        "driver.cpp": {"driver.hpp", "allocate.hpp", "schedule.hpp"},
        "roofline.hpp": {"abi.hpp", "threads.hpp"},
        "roofline.cpp": {"roofline.hpp"},
    }
    for path in SOURCES.rglob("*.[hc]pp"):
        names = [name for mark, name in INCLUDE.findall(path.read_text()) if mark == '"']
        layer = path.relative_to(SOURCES).parts[0]
        if layer in allowed:
            targets = [(path.parent / name).resolve().relative_to(SOURCES) for name in names]
            for target in targets:
                folder = target.parts[0] if len(target.parts) > 1 else ""
                assert folder in allowed[layer], (path, target)
                assert folder or target.name == "abi.hpp", (path, target)
        else:
            assert set(names) <= plain[path.name], path


def test_no_flag_is_fast_math() -> None:
    """Minus infinity hides keys and NaN is data: no flag may assume them away."""
    flags = [*SETUP.COMMON_FLAGS, *SETUP.ISA_FLAGS, *(f for isa in ROWS for f in isa.flags)]
    assert not [
        flag for flag in flags if re.search(r"^-f(?!no-).*(fast-math|finite|unsafe)|Ofast", flag)
    ]


@pytest.mark.parametrize(
    ("cxxflags", "extra", "word"),
    [
        ("-O2 -ffast-math", "", None),  # undone
        ("-Ofast -ffinite-math-only -fno-signed-zeros -freciprocal-math", "", None),
        ("-O2", "-ffast-math", "the compiler's words"),  # of the project's own variable
        ("-O2", "-ffinite-math-only", "the compiler's words"),
        ("-O2 -fdenormal-fp-math=preserve-sign", "", "-fdenormal-fp-math=preserve-sign"),
        ("-O2 -ffp-model=fast", "", "-ffp-model=fast"),
        ("-O2", "-std=c++17", "the compiler's words"),
    ],
)
def test_flags_that_break_the_arithmetic(
    monkeypatch: pytest.MonkeyPatch, cxxflags: str, extra: str, word: str | None
) -> None:
    """Of the shell they are undone, or refused by name; so is a compiler that is too old."""
    from distutils.ccompiler import new_compiler
    from distutils.sysconfig import customize_compiler

    from setuptools import Distribution

    monkeypatch.setenv("CFLAGS", cxxflags)
    monkeypatch.setenv("CXXFLAGS", cxxflags)
    command = SETUP.BuildExt(Distribution())
    command.compiler = new_compiler()
    customize_compiler(command.compiler)
    if word is None:
        command._check_compiler(tuple(extra.split()))
        return
    with pytest.raises(SETUP.CompileError, match=f"IEEE arithmetic.*{word}.*Fix: correct CC"):
        command._check_compiler(tuple(extra.split()))


def test_the_extension_flushes_nothing() -> None:
    """GCC links such start-up code into what is linked with -Ofast."""
    from fastattn._machine import native

    binding, reason = native()
    if binding is None:
        pytest.skip(f"cython: {reason}")
    assert binding.__file__ is not None
    run_python("import fastattn.implementations._native\nassert 5e-324 > 0")


def test_a_row_that_the_compiler_refuses_is_reported(tmp_path: Path) -> None:
    """It is skipped with a reason; `baseline`, without flags, would be an error."""
    from setuptools import Distribution

    command = SETUP.BuildExt(Distribution())
    command.build_temp = str(tmp_path)

    class Refusing:
        def compile(self, *_: object, **__: object) -> list[str]:
            raise SETUP.CompileError("no such option")

    command.compiler = Refusing()
    extension = SimpleNamespace(depends=[])
    row = SETUP.Isa("future", ("-mfuture",))
    objects, reason = command._compile_isa(row, extension, ())
    assert objects == []
    assert "compiler refused" in reason
    with pytest.raises(SETUP.CompileError):
        command._compile_isa(SETUP.Isa("baseline"), extension, ())


def test_a_row_of_another_architecture_is_reported(tmp_path: Path) -> None:
    """It is not even tried."""
    from setuptools import Distribution

    command = SETUP.BuildExt(Distribution())
    found = command._compile_isa(SETUP.Isa("other", (), ("pdp11",)), None, ())
    assert found == ([], "only for pdp11")
