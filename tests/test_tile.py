"""The recipe "adding a tile" of ``src_cpp/README.md``, followed with a tile of scalar loops."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from test_build import SETUP, SOURCES, compiler

TILE = Path(__file__).parent / "scalar_tile.cpp"


@pytest.mark.slow
def test_a_tile_is_one_file_and_one_row(tmp_path: Path) -> None:
    """The sets that the file exports are dispatched by type and size, and compute attention."""
    table = "".join(f"FASTATTN_ISA({name})\n" for name in ("slow", "scalar", "other"))
    (tmp_path / "isa_table.inc").write_text(table)
    sources = [
        TILE,
        *(SOURCES / f"{name}.cpp" for name in ("dispatch", "cpu", "driver", "pool", "threads")),
    ]
    program = tmp_path / "scalar_tile"
    command = [*compiler(), *SETUP.COMMON_FLAGS, "-O1", "-pthread", f"-I{tmp_path}", f"-I{SOURCES}"]
    subprocess.run([*command, *sources, "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
