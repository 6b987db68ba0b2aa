"""What is concluded from replays, and the commands: record, replay, show."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn._errors import ArgumentError
from perf.files import FileError
from perf.tuner_replay.strategies import STRATEGIES

ROOT = Path(__file__).resolve().parent.parent
from perf.tuner_replay import __main__ as command_line  # noqa: E402
from perf.tuner_replay import campaign, console, judge, rivals, synthetic  # noqa: E402
from perf.tuner_replay.campaign import Setting  # noqa: E402
from perf.tuner_replay.recorded_table import read  # noqa: E402
from perf.tuner_replay.replay import replay  # noqa: E402
from perf.tuner_replay.results import EVALUATIONS, SECONDS, Cell, Results  # noqa: E402
from perf.tuner_replay.workloads import HELD_OUT, TUNING, WORKLOADS  # noqa: E402

# --- Conclusions -----------------------------------------------------------------------


def cell(strategy: str, regrets: list[float], name: str = "t", **more: Any) -> Cell:
    """A cell with these regrets."""
    values: dict[str, Any] = {
        "setting": "kernel-50",
        "equal": EVALUATIONS,
        "table": name,
        "strategy": strategy,
        "budget": 50,
        "points": 400,
        "held_out": True,
        "winners": tuple(range(len(regrets))),
        "evaluations": 50.0,
        "explored_seconds": 1.0,
        "kernel_seconds": 2.0,
        "optimiser_seconds": 0.01,
        "course": (0.5,) * 50,
    }
    return Cell(regrets=tuple(regrets), **(values | more))


def test_verdicts_need_more_than_luck() -> None:
    rng = np.random.default_rng(0)
    ours = cell("genetic", [0.0] * 90 + [0.1] * 10)
    worse = cell("worse", [0.0] * 60 + [0.1] * 40)
    better = cell("better", [0.0] * 100)
    like = cell("like", [0.1] * 10 + [0.0] * 90)
    found = {
        other.strategy: judge.difference(judge.paired([ours], [other], "close"), rng)
        for other in (worse, better, like)
    }
    assert judge.verdicts(found) == {"worse": "ahead", "better": "behind", "like": "undecided"}
    assert found["worse"].mean == pytest.approx(0.3)
    low, high = found["worse"].interval
    assert 0.15 < low < 0.3 < high < 0.45
    regrets = judge.difference(judge.paired([ours], [worse], "regret"), rng)
    assert regrets.mean == pytest.approx(0.03)


def test_pairs_are_those_seeds_that_both_have() -> None:
    ours, theirs = cell("genetic", [0.0, 0.1, 0.0, 0.0]), cell("x", [0.1, 0.1])
    (row,) = judge.paired([ours], [theirs], "close")
    assert row.tolist() == [1.0, 0.0]


def test_an_interval_is_that_of_a_share() -> None:
    values = np.array([1.0] * 80 + [0.0] * 20)
    low, high = judge.interval([values], np.random.default_rng(0))
    assert (low, high) == (pytest.approx(0.72, abs=0.02), pytest.approx(0.88, abs=0.02))


def test_flips_are_pairs_with_different_winners() -> None:
    assert cell("x", [0.0] * 4, winners=(1, 1, 1, 1)).flips == 0
    assert cell("x", [0.0] * 4, winners=(1, 1, 1, 2)).flips == pytest.approx(0.5)
    assert cell("x", [0.0] * 4).flips == 1


def test_settings_are_judged_together(capsys: pytest.CaptureFixture[str]) -> None:
    """Ahead by a little in one setting, and by a lot in another."""
    shares = {"genetic": (100, 90), "rival": (99, 60), "partly": (0, None)}
    cells = [
        cell(name, [0.0] * close + [0.1] * (100 - close), setting=setting)
        for name, pair in shares.items()
        for setting, close in zip(("kernel-50", "kernel-warm-18"), pair, strict=True)
        if close is not None
    ]
    console.render(Results({}, cells[:1] + cells[2:3]))
    assert "together, equal" not in capsys.readouterr().out
    console.render(Results({}, cells))
    _, printed = capsys.readouterr().out.split("kernel-50, kernel-warm-18 together, equal eval")
    rows = [line.split() for line in printed.split("Regrets")[0].splitlines()[4:] if line]
    ((name, share, *_, regret_verdict),) = rows
    assert (name, share, regret_verdict) == ("rival", "+15.5", "ahead")


def test_losses_and_missed_bars_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    ours = cell("genetic", [0.0] * 80 + [0.03] * 20)
    results = Results({}, [ours, cell("rival", [0.0] * 99 + [0.1]), cell("poor", [0.2] * 100)])
    console.render(results)
    printed = capsys.readouterr().out
    assert "genetic is behind rival on t: 80.0 % against 99.0 %" in printed
    assert "genetic is behind poor" not in printed
    assert "*99.0" in printed
    assert "within 2 % on all tables together: bar 90.0 %, MISSED: mean 80.0 %" in printed
    assert "within 5 % on all tables together: bar 95.0 %, held: mean 100.0 %" in printed
    assert "Too noisy" not in printed
    results.about["resolutions"] = {"t": 0.15, "u": 0.5}
    console.render(results)
    assert "by their resolution: t 15.0 %\n" in capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in printed.splitlines() if line.strip()}
    assert rows["rival"][-2:] == ["behind", "behind"]
    assert rows["poor"][-2:] == ["ahead", "ahead"]


def test_results_survive_their_file(tmp_path: Path) -> None:
    results = Results({"replays": 3}, [cell("genetic", [0.0, 0.01]), cell("x", [0.2, 0.3])])
    results.write(tmp_path / "r.json")
    assert Results.read(tmp_path / "r.json") == results
    (tmp_path / "r.json").write_text("{}")
    with pytest.raises(FileError, match="measure again"):
        Results.read(tmp_path / "r.json")


def test_settings_are_read_by_name() -> None:
    assert Setting.parse("kernel-warm-18") == Setting("kernel", 18, True)
    for name in (*campaign.SETTINGS, "synthetic-7"):
        assert Setting.parse(name).name == name
    for name in ("kernel", "kernel-warm", "kernel-0", "kernel-x-18", "kernel-warm-warm-18"):
        with pytest.raises(ArgumentError, match="SPACE-BUDGET"):
            Setting.parse(name)


# --- The commands ----------------------------------------------------------------------


def test_missing_rivals_say_what_they_need(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(rivals, "find_spec", lambda name: None)
    assert rivals.missing("genetic") is None
    assert "optuna is not installed" in rivals.missing("optuna-tpe")
    known = command_line.parse(["replay", "--strategies", "genetic,optuna-tpe"])
    assert known.strategies == ["genetic"]
    assert "optuna-tpe is left out: optuna is not installed" in capsys.readouterr().out


def test_the_split_is_fixed_and_halves_both_spaces() -> None:
    assert len(WORKLOADS) >= 12
    assert set(TUNING) | set(HELD_OUT) == set(WORKLOADS)
    assert not set(TUNING) & set(HELD_OUT)
    for space in ("study", "kernel"):
        names = [name for name, one in WORKLOADS.items() if one.space == space]
        assert len(set(names) & set(TUNING)) in (len(names) // 2, -(-len(names) // 2))


def test_replays_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "r.json"
    words = ["replay", "--tables", "flat:1,noisy:1", "--settings", "synthetic-6,kernel-18"]
    words += ["--strategies", "genetic,random,local", "--replays", "4", "--processes", "1"]
    assert command_line.main([*words, "--json", str(kept), "--folder", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "synthetic-6, equal evaluations, 2 held-out tables" in printed
    assert "synthetic-6, equal kernel-seconds" in printed
    assert "by their resolution: noisy:1 " in printed
    results = Results.read(kept)
    assert results.settings() == [("synthetic-6", EVALUATIONS), ("synthetic-6", SECONDS)]
    found = {(c.equal, c.table, c.strategy): c for c in results.cells}
    assert len(found) == 2 * 2 * 3
    mine = found[EVALUATIONS, "noisy:1", "random"]
    noisy = synthetic.make("noisy:1")
    again = [replay(noisy, STRATEGIES["random"], 6, seed) for seed in range(4)]
    assert mine.winners == tuple(one.winner for one in again)
    assert mine.regrets == pytest.approx([one.regret for one in again], rel=1e-3)
    local, ours = found[SECONDS, "noisy:1", "local"], found[SECONDS, "noisy:1", "genetic"]
    assert local.budget < ours.budget == 6  # whose baseline is measured more often
    if (tmp_path / "r-regret.png").exists():
        assert (tmp_path / "r-course.png").stat().st_size > 10_000
    assert command_line.main(["show", str(kept)]) == 0
    shown = capsys.readouterr().out
    assert "synthetic-6, equal kernel-seconds" in shown
    assert shown in printed


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["replay", "--tables", "lunar"], "accepted are"),
        (["record", "--tables", "flat:1"], "accepted are"),
        (["replay", "--strategies", "seed"], "accepted are"),
        (["replay", "--replays", "0"], "1 or more"),
    ],
)
def test_wrong_words_are_refused(words: list[str], reason: str, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        command_line.main(words)
    assert reason in capsys.readouterr().err


def test_nothing_recorded_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--tables", "study-64", "--folder", str(tmp_path)]
    assert command_line.main(["replay", "--strategies", "random", *words]) == 1
    assert "Not recorded, left out: study-64" in capsys.readouterr().out
    assert command_line.main(["show", *words]) == 0
    assert "Not recorded: study-64" in capsys.readouterr().out


@pytest.mark.skipif(
    fastattn.implementations()["cython"] is not None, reason="the study's space is cython's"
)
def test_recording_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = Path(fastattn.__file__).parents[1]
    paths = [str(package), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    words = ["record", "--tables", "study-64", "--folder", str(tmp_path), "--processes", "1"]
    assert command_line.main([*words, "--repetitions", "2"]) == 0
    first = read(tmp_path / "study-64.json")
    assert command_line.main([*words, "--repetitions", "5"]) == 0
    table_ = read(tmp_path / "study-64.json")
    assert "study-64: 1 repetitions of 2" in capsys.readouterr().err
    assert (len(table_.space), table_.processes, table_.failures) == (32, (0, 0, 1, 1, 1), {})
    assert np.array_equal(table_.seconds[:, :2], first.seconds)
    assert table_.metadata["workload"]["shape"] == [1, 1, 1, 64, 64, 64]
    assert len(table_.metadata["load"]) == 2
    assert (table_.sample_seconds > 0.9 * np.median(table_.seconds, axis=1)).all()
    assert replay(table_, STRATEGIES["genetic"], 18, 0).evaluations == 18
    path = tmp_path / "study-64.json"
    path.write_text(path.read_text().replace('"tuning_abi": ', '"tuning_abi": 9'))
    assert command_line.main([*words, "--repetitions", "6"]) == 1
    assert "--anew" in capsys.readouterr().err
