"""The conditions of a run: gathered from its measurements, stored beside asv's results, judged."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.conditions import Contention
from benchmarks.conditions import read_text as _read
from perf.files import Reading, write_whole

CONTENDED_SHARE = 0.1  # of a run's measurements: beyond it the run is contended

# If set, these make a library use other kernels than it would choose for this processor; and the
# libraries that read them: NumPy's BLAS, or modules.
FORCING = {
    **dict.fromkeys(("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"), ("openblas",)),
    **dict.fromkeys(("MKL_CBWR", "MKL_DEBUG_CPU_TYPE"), ("mkl", "torch")),
    "MKL_ENABLE_INSTRUCTIONS": ("mkl", "torch"),
    "BLIS_ARCH_TYPE": ("blis",),
    "NVPL_BLAS_DEBUG_CPU_TYPE": ("nvpl",),
    **dict.fromkeys(("NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES"), ("numpy",)),
    **dict.fromkeys(("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"), ("numba",)),
    "ATEN_CPU_CAPABILITY": ("torch",),
    "DNNL_MAX_CPU_ISA": ("torch", "openvino", "onnxruntime"),
    "ONEDNN_MAX_CPU_ISA": ("torch", "openvino", "onnxruntime"),
    "FASTATTN_ISA": ("fastattn",),
}


def forcing() -> dict[str, str]:
    """Those of `FORCING` that are set and that a library which is installed here reads."""
    import numpy as np

    configuration: Any = np.show_config(mode="dicts")
    blas = configuration.get("Build Dependencies", {}).get("blas", {}).get("name", "")

    def there(library: str) -> bool:
        return library in blas or find_spec(library) is not None

    return {
        name: os.environ[name]
        for name, libraries in FORCING.items()
        if os.environ.get(name) and any(map(there, libraries))
    }


def forced(variables: Mapping[str, str | None]) -> str | None:
    """Name what in an environment forces a library's kernels; None if nothing does."""
    found = [f"{name}={variables[name]}" for name in FORCING if variables.get(name)]
    if not found:
        return None
    return (
        f"Forced by the environment: {', '.join(found)}. A library that reads this may be slower "
        "than with its own choice for this processor: unset it."
    )


def machine() -> str:
    """Model of the processor and number of CPUs."""
    lines = (_read("/proc/cpuinfo") or "").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{(models or ['unknown CPU'])[0]}, {os.cpu_count()} CPUs"


def gather(lines: list[str]) -> dict[str, Any]:
    """Combine recorded lines: the facts, once if all agree, and what was contended.

    Returns
    -------
    dict
        "facts": the distinct ones, in order; "measurements": case, seconds, shares and whether
        it was contended; "contended": whether more than `CONTENDED_SHARE` of them were.
    """
    different: list[dict[str, Any]] = []
    measurements = []
    for line in lines:
        entry = json.loads(line)
        names = ("seconds", "lost_share", "steal_share", "switches")
        contention = Contention(**{name: entry.pop(name) for name in names})
        case = entry.pop("case")
        entry["variables"] |= forcing()
        if entry not in different:
            different.append(entry)
        shares = {n: round(getattr(contention, n), 4) for n in names}
        measurements.append({"case": case, **shares, "contended": contention.contended})
    bad = sum(m["contended"] for m in measurements)
    contended = bad > CONTENDED_SHARE * len(measurements)
    return {"facts": different, "measurements": measurements, "contended": contended}


def path_of(results: Path, machine: str, commit: str) -> Path:
    """File of a commit's conditions, beside its results; not .json, because asv's files are."""
    return results / machine / f"{commit[:8]}.conditions"


def store(found: dict[str, Any], results: Path, machine: str, commit: str) -> Path:
    """Add a run's conditions to those of the commit's earlier runs."""
    path = path_of(results, machine, commit)
    runs = load(results, machine, commit)
    write_whole(path, json.dumps({"version": 1, "runs": [*runs, found]}, indent=1) + "\n")
    return path


def load(results: Path, machine: str, commit: str) -> list[dict[str, Any]]:
    """Conditions of the runs that a commit's results come from; [] if none were recorded."""
    path = path_of(results, machine, commit)
    text = _read(str(path))
    with Reading(path):
        runs: list[dict[str, Any]] = json.loads(text)["runs"] if text else []
    return runs


def warning(found: dict[str, Any]) -> str | None:
    """Say that a run was contended; None if it was not."""
    if not found["contended"]:
        return None
    bad = [m for m in found["measurements"] if m["contended"]]
    worst = max(bad, key=lambda m: max(m["lost_share"], m["steal_share"]))
    share = 100 * max(worst["lost_share"], worst["steal_share"])
    return (
        f"CONTENDED: {len(bad)} of {len(found['measurements'])} measurements had to share their "
        f"CPU; in the worst, {worst['case']}, other processes used {share:.0f} % of its time.  "
        "Measure again on an idle machine."
    )
