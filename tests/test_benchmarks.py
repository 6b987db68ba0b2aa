"""The asv suite: its configuration, what asv finds in it, and the calls it makes."""

from __future__ import annotations

import inspect
import itertools
import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastattn

json5 = pytest.importorskip("json5", reason="the extra [bench] is not installed")
pytest.importorskip("asv", reason="the extra [bench] is not installed")

from asv.config import Config as AsvConfig  # noqa: E402
from asv_runner.discovery import disc_benchmarks  # noqa: E402
from packaging.requirements import Requirement  # noqa: E402
from packaging.utils import canonicalize_name  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
from benchmarks import common  # noqa: E402

# Read by asv with `getattr`, without a default in its Config.
READ_BESIDES = {"version", "build_cache_size"}


# --- Configuration ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def configuration() -> dict[str, Any]:
    return json5.loads((ROOT / "asv.conf.json").read_text())


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def unread_keys(configuration: dict[str, Any]) -> set[str]:
    """Keys that asv accepts in silence and ignores."""
    return set(configuration) - set(vars(AsvConfig())) - READ_BESIDES


def pins(configuration: dict[str, Any]) -> dict[str, str]:
    """Version of each distribution in asv's environment."""
    found = {}
    for name, versions in configuration["matrix"]["req"].items():
        (version,) = versions  # one environment
        found[canonicalize_name(name.removeprefix("pip+"))] = version
    return found


def test_asv_reads_every_key(configuration: dict[str, Any]) -> None:
    assert unread_keys(configuration) == set()


def test_a_misspelt_key_is_found(configuration: dict[str, Any]) -> None:
    assert unread_keys(configuration | {"regression_thresholds": {}}) == {"regression_thresholds"}


def test_the_besides_are_read_by_asv() -> None:
    source = "".join(
        path.read_text() for path in Path(inspect.getfile(AsvConfig)).parent.glob("*.py")
    )
    assert "getattr(conf, 'build_cache_size'" in source


def test_configuration_holds_no_path_of_this_machine(configuration: dict[str, Any]) -> None:
    def strings(value: object) -> list[str]:
        if isinstance(value, dict):
            return [s for pair in value.items() for part in pair for s in strings(part)]
        if isinstance(value, list):
            return [s for part in value for s in strings(part)]
        return [value] if isinstance(value, str) else []

    assert not [text for text in strings(configuration) if re.search(r"(^|[\s=])(/|~|\w:\\)", text)]


def test_environment_gives_blas_the_threads_of_the_suite(configuration: dict[str, Any]) -> None:
    variables = configuration["matrix"]["env_nobuild"]
    assert {name: variables[name] for name in common.BLAS_VARIABLES} == {
        name: [str(common.THREADS)] for name in common.BLAS_VARIABLES
    }


def test_what_was_tuned_steers_no_benchmark(configuration: dict[str, Any]) -> None:
    variables = configuration["matrix"]["env_nobuild"]
    assert {name: [value] for name, value in common.UNTUNED.items()}.items() <= variables.items()


def test_everything_in_the_environment_is_pinned(configuration: dict[str, Any]) -> None:
    assert [v for v in pins(configuration).values() if not re.fullmatch(r"\d+(\.\d+)+", v)] == []


def test_environment_has_the_runtime_dependencies(
    configuration: dict[str, Any], pyproject: dict[str, Any]
) -> None:
    """The project is installed without its dependencies, so the matrix must name them."""
    needed = pyproject["project"]["dependencies"]
    needed += pyproject["project"].get("optional-dependencies", {}).get("numba", ["numba"])
    for text in needed:
        requirement = Requirement(text)
        pin = pins(configuration).get(canonicalize_name(requirement.name))
        assert pin is not None, f"{text} is not in asv.conf.json"
        assert requirement.specifier.contains(pin), text


def test_extras_accept_the_pins(configuration: dict[str, Any], pyproject: dict[str, Any]) -> None:
    extras = pyproject["project"].get("optional-dependencies", {})
    for text in itertools.chain.from_iterable(extras.values()):
        requirement = Requirement(text)
        pin = pins(configuration).get(canonicalize_name(requirement.name))
        assert pin is None or requirement.specifier.contains(pin), text


def test_runner_here_is_the_runner_there(configuration: dict[str, Any]) -> None:
    """Samples taken there get their statistics here."""
    assert metadata.version("asv_runner") == pins(configuration)["asv-runner"]


# --- What asv finds --------------------------------------------------------------------


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return {benchmark.name: benchmark for benchmark in disc_benchmarks(str(ROOT / "benchmarks"))}


def test_benchmarks_stand_in_bench_files_only(found: dict[str, Any]) -> None:
    """asv takes any function called track_..., time_... and so on for one, helpers too."""
    assert found
    assert [name for name in found if not name.startswith("bench_")] == []


def test_versions_are_written_by_hand(found: dict[str, Any]) -> None:
    assert [name for name, benchmark in found.items() if len(benchmark.version) > 8] == []


def test_a_benchmark_without_version_is_refused() -> None:
    with pytest.raises(TypeError, match="version"):
        common.benchmark(unit="seconds")


def test_benchmarks_do_not_share_a_cache_by_accident(found: dict[str, Any]) -> None:
    users = {(b.name.rpartition(".")[0], b.setup_cache_key) for b in found.values()}
    keys = [key for _, key in users if key is not None]
    assert keys
    assert len(keys) == len(set(keys))


def test_no_benchmark_has_a_setup_hook(found: dict[str, Any]) -> None:
    """With one, asv_runner 0.3 calls a timed function once per sample."""
    assert [name for name, benchmark in found.items() if benchmark._setups] == []


@pytest.mark.parametrize("key", ["regressions_thresholds", "regressions_first_commits"])
def test_patterns_of_regressions_match_something(
    configuration: dict[str, Any], found: dict[str, Any], key: str
) -> None:
    for pattern in configuration[key]:
        assert any(re.match(pattern, name) for name in found), pattern


def test_tables_keep_their_beginnings() -> None:
    """Values of parameters are part of a result's name: append, and extend this list."""
    assert common.IMPLS[:3] == ("numpy", "numba", "cython")
    assert common.DIMS[:7] == (64, 128, 256, 400, 512, 768, 1024)
    assert {
        name: (c.batch, c.heads_q, c.heads_kv, c.length_q, c.length_k, c.dim, c.causal)
        for name, c in list(common.WORKLOADS.items())[:7]
    } == {
        "small": (4, 2, 2, 100, 100, 32, False),
        "vit": (8, 12, 12, 197, 197, 64, False),
        "bert": (8, 12, 12, 384, 384, 64, False),
        "prefill-2k": (1, 8, 8, 2048, 2048, 64, False),
        "causal-2k": (1, 8, 8, 2048, 2048, 64, True),
        "causal-4k": (1, 8, 8, 4096, 4096, 128, True),
        "decode": (4, 32, 8, 1, 4096, 128, False),
    }
    assert tuple(common.REGIMES)[:21] == (
        *("dim-256", "dim-512", "dim-1024", "small", "bert", "prefill-2k", "prefill-2k-128"),
        *("causal-4k", "decode", "decode-16k", "dim-512-float64", "prefill-2k-float64"),
        *("prefill-2k-float16", "prefill-2k-bfloat16", "decode-float16", "decode-bfloat16"),
        *("decode-group-8", "dim-1024-bfloat16", "bert-float16", "bert-bfloat16"),
        "causal-4k-bfloat16",
    )
    assert common.REGIMES["prefill-2k-128"] == common.Case(1, 8, 8, 2048, 2048, 128)
    assert common.REGIMES["decode-16k"] == common.Case(1, 8, 8, 1, 16384, 128)
    assert common.REGIMES["decode-group-8"] == common.Case(2, 64, 8, 1, 4096, 128)
    assert list(common.MASKED.items())[:3] == [
        ("blocks-2k", common.Case(1, 8, 8, 2048, 2048, 64, blocks=8)),
        ("window-4k", common.Case(1, 8, 8, 4096, 4096, 64, window=255)),
        ("causal-2k", common.WORKLOADS["causal-2k"]),
    ]
    for name, case in common.REGIMES.items():
        assert case.dtype in (name.rpartition("-")[2], "float32"), name


def test_profiles_differ_in_extent_only() -> None:
    full = common.PROFILES["full"]
    names = ("dims", "sixteen_bit", "workloads", "workload_dtypes", "memory", "compiled", "regimes")
    for profile in common.PROFILES.values():
        assert profile.repetitions % len(common.IMPLS) == 0  # whole balanced squares
        for name in (*names, "masked", "history"):
            assert set(getattr(profile, name)) <= set(getattr(full, name)), name
    assert common.PROFILES["standard"].dims == common.DIMS


def test_an_unknown_profile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(common.PROFILE_VARIABLE, "smok")
    with pytest.raises(ValueError, match="smoke, standard, full"):
        common.profile()


# --- Calls -----------------------------------------------------------------------------


def test_inputs_are_the_same_every_time() -> None:
    case = common.WORKLOADS["small"]
    q, k, v = common.inputs.__wrapped__(case)
    again = common.inputs.__wrapped__(case)
    assert (q.shape, k.shape, v.shape) == ((4, 2, 100, 32),) * 3
    assert all(np.array_equal(a, b) for a, b in zip((q, k, v), again, strict=True))
    assert not np.array_equal(q, k)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_inputs_of_16_bits_are_rounded_ones(dtype: str) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    case = common.WORKLOADS["small"]
    for narrow, wide in zip(common.inputs(case.of(dtype)), common.inputs(case), strict=True):
        assert narrow.dtype.name == dtype
        assert np.array_equal(narrow, wide.astype(narrow.dtype))


@pytest.mark.parametrize(
    ("case", "arguments"),
    [
        (common.Case(1, 1, 1, 12, 12, 4, causal=True), {"causal": True}),
        (common.Case(1, 1, 1, 12, 12, 4, window=3), {"window": (3, 0)}),
        (
            common.Case(1, 1, 1, 12, 12, 4, blocks=3),
            {"mask": np.kron(np.eye(3), np.ones((4, 4))).astype(bool)},
        ),
    ],
    ids=["causal", "window", "blocks"],
)
def test_masks_are_those_of_the_call(
    case: common.Case, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in common.BLAS_VARIABLES:
        monkeypatch.setenv(name, "1")
    expected = fastattn.attention(*common.inputs(case), impl="numpy", **arguments)
    assert np.array_equal(common.bind(case, "numpy")(), expected)
    everything = case.without_masks()
    assert everything.seen(range(12)) is None
    weights = fastattn.attention(*common.inputs(everything), impl="numpy")
    assert np.array_equal(common.bind(everything, "numpy")(), weights)
    dense = fastattn.attention(*common.inputs(case), impl="numpy", mask=case.seen(range(12)))
    assert np.allclose(dense, expected)


def test_blas_with_more_threads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in common.BLAS_VARIABLES:
        monkeypatch.setenv(name, "1")
    common.bind(common.SMALLEST, "numpy")()
    monkeypatch.setenv(common.BLAS_VARIABLES[0], "2")
    with pytest.raises(RuntimeError, match=common.BLAS_VARIABLES[0]):
        common.bind(common.SMALLEST, "numpy")


def test_what_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    case = common.WORKLOADS["small"]
    assert common.missing(case, "numpy") is None
    assert "does not have it" in common.missing(case, "fortran")
    monkeypatch.setattr(
        fastattn, "implementations", lambda: {"numpy": None, "cython": "no compiler"}
    )
    assert common.missing(case, "cython") == "no compiler"
    monkeypatch.setattr(common, "_free_bytes", lambda: 2**30)
    assert "MiB" in common.missing(common.LONG["long-16k"], "numpy")
    monkeypatch.setattr(common, "_free_bytes", lambda: None)
    assert common.missing(common.LONG["long-16k"], "numpy") is None
