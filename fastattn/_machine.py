"""Description of this machine: processor, caches, usable CPUs, runnable instruction sets."""

from __future__ import annotations

import functools
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastattn._dtypes import DTYPES
from fastattn._errors import UnavailableError
from fastattn._optional import import_failure

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

__all__ = [
    "Machine",
    "binding",
    "caches_bytes",
    "cgroup_cpus",
    "check_runnable",
    "cpu_fields",
    "has_kernel",
    "machine",
    "native",
    "offered_isas",
    "refusal",
    "system_text",
    "usable_cpus",
]


@dataclass(frozen=True, slots=True)
class Machine:
    """A description of the machine, as fastattn uses it.

    Attributes
    ----------
    processor : str
        Model name, or the architecture if the system does not give one.
    architecture : str
        As ``platform.machine()`` gives it.
    cpus : int
        CPUs of the machine that are online.
    usable_cpus : int
        CPUs that this process may use: those of its affinity mask, but no more than the
        cgroup's quota rounded up, and at least 1.  The default thread count.
    caches_bytes : dict of str to int
        Sizes of the first CPU's data caches, with keys among "L1d", "L2", "L3"; empty
        if the system does not give them.  In bytes.
    isas : tuple of str
        Instruction sets that the ``cython`` implementation can run here, best first; at the end
        those that are slow on this processor, and used only if they are named.
    missing_isas : dict of str to str
        Instruction sets that cannot run here, with the reason.
    kernels : dict of str to dict of str to tuple of str
        For each operation and data type, the instruction sets of `isas` that have a kernel for
        it, best first.

    Examples
    --------
    >>> import fastattn
    >>> here = fastattn.machine()
    >>> 1 <= here.usable_cpus <= here.cpus
    True
    """

    processor: str
    architecture: str
    cpus: int
    usable_cpus: int
    caches_bytes: dict[str, int]
    isas: tuple[str, ...]
    missing_isas: dict[str, str]
    kernels: dict[str, dict[str, tuple[str, ...]]]


def native() -> tuple[ModuleType | None, str | None]:
    """Compiled binding, or None and the reason why it cannot be imported."""
    name = "fastattn.implementations._native"
    if (reason := import_failure(name)) is not None:
        return None, f"the compiled extension cannot be imported: {reason}"
    return sys.modules[name], None


def binding() -> ModuleType:
    """Compiled binding, on a machine that has it."""
    found, reason = native()
    assert found is not None, reason
    return found


@functools.cache
def machine() -> Machine:
    """Describe this machine.

    The description is made once per process, and again in a forked child.  Therefore set the
    affinity mask before the first call.  On a processor with AMX it asks the operating system
    for the permission to use tiles, as the first call that is computed with them does.

    Returns
    -------
    Machine

    Examples
    --------
    >>> import fastattn
    >>> fastattn.machine().usable_cpus >= 1
    True
    """
    import platform  # here and below: `import fastattn` does not need these
    from pathlib import Path

    compiled, reason = native()
    rows = _rows(compiled, compiled.missing) if compiled else {"cython": reason}
    isas = tuple(name for name, why in rows.items() if why is None)
    return Machine(
        processor=_processor(Path("/proc/cpuinfo")),
        architecture=platform.machine(),
        cpus=os.cpu_count() or 1,
        usable_cpus=usable_cpus(),
        caches_bytes=caches_bytes(),
        isas=isas,
        missing_isas={name: why for name, why in rows.items() if why is not None},
        kernels=_kernels(compiled, isas) if compiled else {},
    )


def _rows(compiled: ModuleType, why_not: Callable[[int], str | None]) -> dict[str, str | None]:
    """What `why_not` says of each instruction set, in the order of `Machine.isas`."""
    rows = sorted(range(len(compiled.ISAS)), key=lambda row: not compiled.preferred(row))
    return {compiled.ISAS[row]: why_not(row) for row in rows}


def _kernels(compiled: ModuleType, isas: tuple[str, ...]) -> dict[str, dict[str, tuple[str, ...]]]:
    """`Machine.kernels`."""
    return {
        operation: {
            row.name: tuple(name for name in isas if has_kernel(name, operation, row.code))
            for row in DTYPES.values()
        }
        for operation in compiled.OPERATIONS
    }


def has_kernel(isa: str, operation: str, code: int) -> bool:
    """Whether an instruction set of the build has a kernel for an operation and data type."""
    found: bool = binding().has_kernel(binding().ISAS.index(isa), operation, code)
    return found


def offered_isas(dtype: str, operation: str) -> list[str]:
    """Instruction sets of build and processor with a kernel, in the order of `Machine.isas`.

    Whether the operating system permits their use is not asked.
    """
    compiled, _ = native()
    rows = _rows(compiled, compiled.absent) if compiled else {}
    code = DTYPES[dtype].code
    return [name for name, why in rows.items() if why is None and has_kernel(name, operation, code)]


def refusal(isa: str) -> str | None:
    """Why an instruction set cannot run here; None if it can.

    The operating system is asked to permit the use of this one alone.
    """
    compiled, reason = native()
    if compiled is not None:
        reason = "there is no such instruction set"
        if isa in compiled.ISAS:
            reason = compiled.missing(compiled.ISAS.index(isa))
    return reason


def check_runnable(isa: str, origin: str) -> None:
    """Refuse an instruction set that cannot run here; `origin` names what asks for it."""
    if (reason := refusal(isa)) is not None:
        raise UnavailableError(
            origin, repr(isa), f"one of {list(machine().isas)}", f"choose another: {reason}"
        )


def system_text(path: str | os.PathLike[str], errors: str = "replace") -> str:
    """What the system tells in a file, in whatever encoding; "" if it does not."""
    try:
        with open(path, encoding="utf-8", errors=errors) as file:
            return file.read()
    except OSError:
        return ""


def cpu_fields(cpuinfo: str | os.PathLike[str] = "/proc/cpuinfo") -> dict[str, str]:
    """Fields of the first CPU, as the system names them; none if it does not tell."""
    first, _, _ = system_text(cpuinfo).partition("\n\n")
    lines = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def _processor(cpuinfo: Path) -> str:
    """Model name, or the architecture if the file does not tell."""
    import platform

    name = cpu_fields(cpuinfo).get("model name")
    return name or platform.processor() or platform.machine()


@functools.cache
def usable_cpus() -> int:
    """`Machine.usable_cpus`."""
    from pathlib import Path

    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota = cgroup_cpus(Path("/"))
    return max(1, count if quota is None else min(count, -int(-quota // 1)))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=machine.cache_clear)
    os.register_at_fork(after_in_child=usable_cpus.cache_clear)


def cgroup_cpus(root: Path) -> float | None:
    """CPUs that the tightest quota of the cgroup and its parents allows; None if unlimited.

    `root` is the root of the file system that holds ``proc`` and ``sys``.
    """
    quotas = []
    # The path of a group is bytes, like any other.
    for line in system_text(root / "proc/self/cgroup", "surrogateescape").split("\n"):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not path:
            continue
        if controllers == "":
            base, read = root / "sys/fs/cgroup", _quota_v2
        elif "cpu" in controllers.split(","):
            base, read = root / "sys/fs/cgroup/cpu", _quota_v1
        else:
            continue
        folders = [name for name in path.split("/") if name and name != ".."]
        for depth in range(len(folders) + 1):
            quotas.append(read(base.joinpath(*folders[:depth])))
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = system_text(folder / "cpu.max").split()
        return None if quota == "max" else int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int(system_text(folder / "cpu.cfs_quota_us"))
        period = int(system_text(folder / "cpu.cfs_period_us"))
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


@functools.cache
def caches_bytes(folder: str = "/sys/devices/system/cpu/cpu0/cache") -> dict[str, int]:
    """`Machine.caches_bytes`."""
    from pathlib import Path

    sizes = {}
    for index in sorted(Path(folder).glob("index*")):
        kind, level, size = (
            system_text(index / name).strip() for name in ("type", "level", "size")
        )
        if kind in ("Data", "Unified") and size.endswith("K") and size[:-1].isdecimal():
            sizes[f"L{level}d" if kind == "Data" else f"L{level}"] = int(size[:-1]) * 1024
    return sizes
