"""The tree of errors."""

from __future__ import annotations

import pickle

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
    with pytest.raises(BASES[name], match="accepted: a 4"):
        raise error("x", "3", "a 4", "add 1")


def test_the_table_is_whole() -> None:
    """No error is missing from the table above."""
    errors = {n for n in _errors.__all__ if isinstance(getattr(_errors, n), type)}
    assert errors == {*BASES, "FastattnError"}
    assert errors <= set(fastattn.__all__)


@pytest.mark.parametrize("name", BASES)
def test_message(name: str) -> None:
    """Argument, what was received, what is accepted, the fix; also in another process."""
    error = getattr(fastattn, name)("x", "3", "a 4", "add 1")
    assert str(error) == "`x`: received 3; accepted: a 4. Fix: add 1."
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))
