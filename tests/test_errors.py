"""The tree of errors."""

from __future__ import annotations

import pytest

import fastattn
from fastattn import _errors

BASES = {
    "ShapeError": ValueError,
    "DTypeError": TypeError,
    "ArgumentError": ValueError,
    "ArgumentTypeError": TypeError,
    "OutputError": ValueError,
    "ConfigError": ValueError,
    "UnavailableError": RuntimeError,
    "WisdomError": OSError,
}


@pytest.mark.parametrize("name", BASES)
def test_one_base_and_a_builtin(name: str) -> None:
    """Each error is a FastattnError, and the builtin that existing code catches."""
    error = getattr(fastattn, name)
    assert error.__bases__ == (fastattn.FastattnError, BASES[name])
    assert name in (_errors.__doc__ or "")
    with pytest.raises(BASES[name], match="message"):
        raise error("message")


def test_the_table_is_whole() -> None:
    """No error is missing from the table above."""
    errors = {n for n in _errors.__all__ if isinstance(getattr(_errors, n), type)}
    assert errors == {*BASES, "FastattnError"}
    assert errors <= set(fastattn.__all__)


def test_teach() -> None:
    """Argument, what came, what is accepted, how to mend it; in that order."""
    assert _errors.format_error("x", 3, "a 4", "add 1") == (
        "`x`: received 3; accepted: a 4. Fix: add 1."
    )
