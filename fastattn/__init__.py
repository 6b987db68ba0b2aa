"""Fast, exact scaled-dot-product attention for NumPy arrays on CPUs.

Start with `attention`.  `explain` shows how a call would be computed.  `implementations` and
`machine` describe what can run on this machine, and `roofline` measures its limits.  `Config` sets
how a call is computed, `tune` searches for the fastest `Config`, and `wisdom` manages the results
of `tune`.  The adapters `fastattn.torch`, `fastattn.transformers` and `fastattn.onnx` are imported
separately.
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

# Names that are imported on first use, and their modules.
_LATER = {"TuningResult": "fastattn.tuner", "tune": "fastattn.tuner", "wisdom": "fastattn.wisdom"}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module 'fastattn' has no attribute {name!r}")
    module = importlib.import_module(_LATER[name])
    return module if name == "wisdom" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
