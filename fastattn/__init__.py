"""Fast, exact scaled-dot-product attention for NumPy arrays on CPUs.

Start with `attention`; `explain` tells how a call is computed, `implementations` and
`machine` what this machine can do, `roofline` what it can do at most, `Config` how to steer it.
"""

from __future__ import annotations

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
    "UnavailableError",
    "WisdomError",
    "__version__",
    "attention",
    "explain",
    "implementations",
    "machine",
    "roofline",
]
