"""`Config`: its fields, their ranges, and how it prints."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastattn import Config, ConfigError
from fastattn._config import TUNABLES

ROWS = {row.name: row for row in TUNABLES}


@pytest.mark.parametrize("name", ROWS)
def test_range(name: str) -> None:
    """The bounds are accepted, what lies past them is refused."""
    row = ROWS[name]
    for value in (row.low, row.high):
        assert getattr(Config(**{name: value}), name) == value
    for value in (row.low - 1, row.high + 1, -(10**30), 10**30):
        with pytest.raises(ConfigError, match=rf"Config\.{name}.*accepted.*Fix"):
            Config(**{name: value})


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize(
    "value", [1.0, "1", True, False, np.bool_(True), [1], np.ones(2), 1j], ids=repr
)
def test_not_a_whole_number(name: str, value: Any) -> None:
    """Only integers are whole numbers."""
    with pytest.raises(ConfigError, match=rf"Config\.{name}"):
        Config(**{name: value})


@pytest.mark.parametrize(
    "value", [np.int8(3), np.uint64(3), np.array(3)], ids=lambda v: str(v.dtype)
)
def test_numpy_integers_become_python_integers(value: Any) -> None:
    """So that equal configurations are equal, and hash alike."""
    config = Config(threads=value)
    assert type(config.threads) is int
    assert config == Config(threads=3)
    assert hash(config) == hash(Config(threads=3))


@pytest.mark.parametrize("value", [1, b"avx2", ["avx2"], True], ids=repr)
def test_isa_is_a_name(value: Any) -> None:
    """Whether the name is known is decided where it is used."""
    with pytest.raises(ConfigError, match=r"Config\.isa"):
        Config(isa=value)
    assert Config(isa="any").isa == "any"


@pytest.mark.parametrize("value", [None, 0, 1, "yes", np.True_], ids=repr)
def test_deterministic_is_a_flag(value: Any) -> None:
    """It belongs to no implementation, so it is not among the given fields."""
    with pytest.raises(ConfigError, match=r"Config\.deterministic.*Fix"):
        Config(deterministic=value)
    config = Config(threads=2, deterministic=True)
    assert config.explicit() == {"threads": 2}
    assert config != Config(threads=2)
    assert hash(config) != hash(Config(threads=2))
    assert repr(config) == "Config(threads=2, deterministic=True)"


def test_every_field_is_optional_and_named() -> None:
    """No positional fields: their order means nothing."""
    nothing = {
        "block_q": None,
        "block_k": None,
        "keys_per_split": None,
        "threads": None,
        "isa": None,
    }
    assert Config() == Config(**nothing, deterministic=False)
    assert {*ROWS, "isa", "deterministic"} == {field.name for field in dataclasses.fields(Config)}
    with pytest.raises(TypeError):
        Config(64)  # type: ignore[misc]
    with pytest.raises(TypeError):
        Config(blocks=64)  # type: ignore[call-arg]


def test_frozen() -> None:
    """A configuration is a value."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config(threads=1).threads = 2  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        Config().extra = 1  # type: ignore[attr-defined]


def _configs() -> st.SearchStrategy[Config]:
    fields: dict[str, st.SearchStrategy[Any]] = {
        row.name: st.integers(row.low, row.high) for row in TUNABLES
    }
    fields["isa"] = st.sampled_from(["baseline", "avx2"])
    fields["deterministic"] = st.booleans()
    return st.fixed_dictionaries({}, optional=fields).map(lambda given_: Config(**given_))


@given(config=_configs())
def test_repr_is_the_call_that_makes_it(config: Config) -> None:
    """What is printed can be pasted."""
    assert eval(repr(config)) == config
    assert Config(**config.explicit(), deterministic=config.deterministic) == config
