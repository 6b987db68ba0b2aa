"""The programs in `examples/`, with small sizes."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent.parent / "examples"
Main = Callable[[Sequence[str]], int]


def _main(name: str) -> Main:
    main: Main = runpy.run_path(str(FOLDER / name))["main"]
    return main


def test_encoder(capsys: pytest.CaptureFixture[str]) -> None:
    """Both kinds of attention agree, and each has a row."""
    sizes = "--layers 2 --hidden 32 --heads 4 --length 20 --batch 3 --rounds 2"
    assert _main("encoder_numpy.py")(sizes.split()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[0] for line in lines[1:4]] == ["attention", "by hand", "fastattn"]
    assert lines[4].startswith("results differ by at most")


@pytest.mark.parametrize(
    ("model", "dtype", "refused"),
    [("llama", "float32", []), ("gemma2", "bfloat16", ["sdpa"]), ("gpt_oss", "float32", ["sdpa"])],
)
def test_generation(
    model: str, dtype: str, refused: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each implementation that the model can have has a row; the others are told."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = "--layers 2 --hidden 64 --heads 4 --kv-heads 2 --vocabulary 99 --prompt 20 --tokens 2"
    options = f"--model {model} --dtype {dtype} --rounds 1 {sizes}"
    assert _main("transformers_generate.py")(options.split()) == 0
    text = capsys.readouterr().out
    for name in ("eager", "sdpa", "fastattn"):
        assert (f"\n{name} " in text) == (name not in refused)
        assert (f"without {name}:" in text) == (name in refused)
    assert "logits of fastattn and eager differ by" in text


@pytest.mark.parametrize("library", ["transformers", "onnx"])
def test_first_block_of_the_page(library: str) -> None:
    """What a reader tries first."""
    pytest.importorskip(library, reason=f"{library} is not installed")
    text = (FOLDER.parent / "docs" / f"{library}.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    exec(compile(code, f"{library}.md", "exec"), {})


def test_every_example_is_in_the_readme() -> None:
    text = (FOLDER.parent / "README.md").read_text()
    for path in FOLDER.glob("*.py"):
        assert f"examples/{path.name}" in text
