"""Every error that fastattn raises on purpose.

::

    FastattnError
    |-- ShapeError            (ValueError)    axes do not fit together
    |-- DTypeError            (TypeError)     not an array fastattn can read
    |-- ArgumentError         (ValueError)    a value outside its accepted range
    |-- ArgumentTypeError     (TypeError)     a value of the wrong type
    |-- OutputError           (ValueError)    `out` cannot take the result
    |-- ConfigError           (ValueError)    a Config field that does not apply here
    |-- UnavailableError      (RuntimeError)  an implementation or ISA that cannot compute it here
    `-- WisdomError           (OSError)       a wisdom file that cannot be read or written

Each message names the argument, what was received, what is accepted and how to
fix the call.  A refused call has computed nothing and left `out` untouched.
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "ConfigError",
    "DTypeError",
    "FastattnError",
    "OutputError",
    "ShapeError",
    "UnavailableError",
    "WisdomError",
]


class FastattnError(Exception):
    """Base of every error that fastattn raises on purpose.

    Parameters
    ----------
    argument, received, accepted, fix : str
        The parts of the message: the argument, what was received, what is accepted, and what
        the caller can do about it.
    """

    def __init__(self, argument: str, received: str, accepted: str, fix: str) -> None:
        super().__init__(f"`{argument}`: received {received}; accepted: {accepted}. Fix: {fix}.")
        self._fields = argument, received, accepted, fix

    def __reduce__(self) -> tuple[type[FastattnError], tuple[str, str, str, str]]:
        return type(self), self._fields  # the default passes the message alone


class ShapeError(FastattnError, ValueError):
    """Axes that do not fit together, are empty where they may not be, or overflow."""


class DTypeError(FastattnError, TypeError):
    """An object that is not an array of an accepted data type in this machine's memory."""


class ArgumentError(FastattnError, ValueError):
    """A value outside its accepted range."""


class ArgumentTypeError(FastattnError, TypeError):
    """A value of the wrong Python type."""


class OutputError(FastattnError, ValueError):
    """`out` that cannot take the result."""


class ConfigError(FastattnError, ValueError):
    """A `Config` field that is out of range or that the implementation does not have."""


class UnavailableError(FastattnError, RuntimeError):
    """An implementation or instruction set that cannot compute this call on this machine."""


class WisdomError(FastattnError, OSError):
    """A file or folder of wisdom that cannot be read or written."""
