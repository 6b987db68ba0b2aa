"""Fast, exact scaled-dot-product attention for NumPy arrays on CPUs.

Start with `attention`.  `explain` tells how a call is computed; `implementations` and `machine`
tell what this machine can run, and `roofline` measures what it can do at most.  `Config` steers
how a call is computed, `tune` finds the best way, and `wisdom` is what was found.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from fastattn._api import attention, explain
from fastattn._config import Config
from fastattn._errors import (
    ArgumentError,
    ArgumentTypeError,
    ConfigError,
    DTypeError,
    FastattnError,
    OutputError,
    ShapeError,
    UnavailableError,
    WisdomError,
)
from fastattn._machine import Machine, machine
from fastattn._plan import Explanation
from fastattn._roofline import Roofline, roofline
from fastattn._version import __version__
from fastattn.implementations import implementations

if TYPE_CHECKING:
    from fastattn import wisdom
    from fastattn.tuner import TuningResult, tune

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "Config",
    "ConfigError",
    "DTypeError",
    "Explanation",
    "FastattnError",
    "Machine",
    "OutputError",
    "Roofline",
    "ShapeError",
    "TuningResult",
    "UnavailableError",
    "WisdomError",
    "__version__",
    "attention",
    "explain",
    "implementations",
    "machine",
    "roofline",
    "tune",
    "wisdom",
]

# Names that few programs need, and the module that each is in, imported when it is first asked for.
_LATER = {"TuningResult": "fastattn.tuner", "tune": "fastattn.tuner", "wisdom": "fastattn.wisdom"}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module 'fastattn' has no attribute {name!r}")
    module = importlib.import_module(_LATER[name])
    return module if name == "wisdom" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
