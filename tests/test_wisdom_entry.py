"""Entries of wisdom: what is cut short, altered or out of its limits is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import remembered
from hypothesis import given
from hypothesis import strategies as st

from fastattn._wisdom import keys, store
from fastattn._wisdom.entry import Entry, InvalidEntry, describe, from_document, parse_json


def test_truncated_at_every_length(wisdom_folder: Path) -> None:
    """What is cut short is no entry."""
    path = remembered.remember()
    whole = path.read_bytes()
    assert isinstance(store.read(str(path)), Entry)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InvalidEntry):
            store.read(str(path))


@pytest.mark.parametrize("data", [b"[" * 100_000, b"\xff\xfe\x00", b'{"a": 1e999}', b"NaN", b""])
def test_what_is_no_json(data: bytes) -> None:
    """Deep, binary, infinite, empty."""
    with pytest.raises(InvalidEntry):
        from_document(parse_json(data))


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 70)
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=True)
    | st.sampled_from(["auto", "cython", "float32", "float64", "avx2", "2026-01-01T00:00:00Z"])
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["impl", "config", "threads", "isa", "x"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An entry as it is written down."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTATTN_WISDOM_DIR", str(tmp_path_factory.mktemp("sound")))
        return remembered.document()


@given(data=st.data())
def test_whatever_is_changed(sound: dict[str, Any], data: st.DataObject) -> None:
    """A part replaced, added or left out: unfit, or an entry that says just what was read."""
    said = json.loads(json.dumps(sound))
    inner = [said, *(part for part in said.values() if isinstance(part, dict))]
    part = data.draw(st.sampled_from(inner))
    name = data.draw(st.sampled_from([*part, "extra"]))
    if data.draw(st.booleans()):
        part[name] = data.draw(values)
    else:
        part.pop(name, None)
    try:
        entry = from_document(said)
    except InvalidEntry:
        return
    assert keys.canonical(entry.document()) == keys.canonical(said)
    assert describe(entry.spec)


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"format": "fastattn wisdom"}, "unknown format"),
    ({"version": 1}, "unknown format"),
    ({"version": True}, "unknown format"),
    ({"date": "yesterday"}, "yesterday"),
    ({"date": "2026-1-1T00:00:00Z"}, "unexpected"),
    ({"evidence": []}, "evidence"),
    ({"more": 0}, "unexpected"),
    ({"limits__threads": 0}, "limits"),
    ({"limits__threads": True}, "limits"),
    ({"limits__threads": 10**6}, "limits"),
    ({"limits__isa": 2}, "limits"),
    ({"limits__requested": "fortran"}, "limits"),
    ({"limits__requested": ["auto"]}, "limits"),
    ({"limits__more": 0}, "unexpected"),
    ({"problem__causal": 0}, "problem"),
    ({"problem__shape": [1, 4, 2, 0, 64, 16, 16]}, "shape"),
    ({"problem__shape": [1, 4, 2, 2**63, 64, 16, 16]}, "2\\*\\*62"),
    ({"problem__shape": [1, 4, 2, 64.0, 64, 16, 16]}, "shape"),
    ({"problem__shape": [1, 3, 2, 64, 64, 16, 16]}, "3 query heads"),
    ({"problem__shape": [1, 4, 2, 64, 64, 16]}, "unexpected"),
    ({"problem__dtype": "int8"}, "dtype"),
    ({"problem__window": [1]}, "window"),
    ({"problem__window": [1, -1]}, "window"),
    ({"problem__window": [1, "x"]}, "window"),
    ({"winner__impl": "fortran"}, "fortran"),
    ({"winner__impl": "numpy"}, "numpy has no Config.*block_k"),
    ({"winner__config": {"block_q": 0}}, "Config.block_q"),
    ({"winner__config": {"block_q": "64"}}, "Config.block_q"),
    ({"winner__config": {"deterministic": True}}, "no Config.*deterministic"),
    ({"winner__config": {"__class__": 1}}, "no Config.*__class__"),
    ({"winner__config": {"threads": 1024}}, "more threads than its limit"),
]


@pytest.mark.parametrize(("changes", "reason"), CHANGES, ids=[str(c)[1:-1] for c, _ in CHANGES])
def test_what_is_wrong_is_told(sound: dict[str, Any], changes: dict[str, Any], reason: str) -> None:
    """Each for itself."""
    said = json.loads(json.dumps(sound))
    for name, value in changes.items():
        part, *inner = name.split("__", 1)
        if inner:
            said[part][inner[0]] = value
        else:
            said[part] = value
    with pytest.raises(InvalidEntry, match=reason):
        from_document(said)


def test_limits_of_a_winner(sound: dict[str, Any]) -> None:
    """It is of the implementation and instruction set that were requested."""
    said = json.loads(json.dumps(sound))
    said["limits"]["requested"] = "numba" if remembered.IMPL != "numba" else "cython"
    with pytest.raises(InvalidEntry, match="was requested"):
        from_document(said)
    said = json.loads(json.dumps(sound))
    said["environment"]["isas"] = ["avx2", "baseline"]
    said["winner"] = {"impl": "cython", "config": {"isa": "avx2"}}
    said["limits"]["isa"] = "baseline"
    with pytest.raises(InvalidEntry, match="instruction set is not baseline"):
        from_document(said)
    said["limits"]["isa"] = "avx2"
    assert from_document(said).config.isa == "avx2"
    said["environment"]["isas"] = ["baseline"]
    with pytest.raises(InvalidEntry, match="no instruction set avx2"):
        from_document(said)
