"""What replays show, in words: a table for each setting, losses, and the bars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from perf.tuner_replay.campaign import OURS
from perf.tuner_replay.judge import Difference, difference, interval, paired, verdicts
from perf.tuner_replay.results import CLOSE, EVALUATIONS, NEAR, SECONDS, Cell, Results

__all__ = ["Bar", "bars", "losses", "render", "table_text"]

_HEADER = (
    *("strategy", "n", "evals", "kernel s", "median", "p95", "<=2%", "95 %", "worst", "<=5%"),
    *("flips", "opt. ms", "ours-its", "95 %", "share: ours", "regret: ours"),
)
_POOLED = (
    *("strategy", "ours-its", "95 %", "share: ours"),
    *("its-ours: mean regret", "95 %", "regret: ours"),
)
_LEGEND = (
    "Regrets (median, p95), shares of replays (<=2%, <=5%; worst: of the worst table) and flips\n"
    "(pairs of seeds with different winners) in per cent.  ours-its: share within 2 %, paired by\n"
    "table and seed.  The last two: verdict on that share and on the mean regret, after Holm."
)


@dataclass(frozen=True, slots=True)
class Bar:
    """What must be shown: the least share of the replays that is within a given regret."""

    setting: str
    within: float
    least: float
    every_table: bool


BARS = (
    Bar("study-18", 0.02, 0.964, True),
    Bar("kernel-50", 0.02, 0.90, False),
    Bar("kernel-50", 0.05, 0.95, False),
    Bar("kernel-warm-18", 0.05, 0.95, False),
)


def render(results: Results) -> None:
    """Print everything."""
    for setting, equal in results.settings():
        for held_out in (True, False):
            if results.select(setting, equal, held_out):
                for text in _setting(results, setting, equal, held_out):
                    print(text)
    for equal in (EVALUATIONS, SECONDS):
        if together := _together(results, equal):
            print(together)
    print(_LEGEND)
    if unclear := [f"{name} {_percent(r, 1)}" for name, r in _resolutions(results) if r > CLOSE]:
        print(
            f"Too noisy to judge by {_percent(CLOSE, 0)}, by their resolution: {', '.join(unclear)}"
        )
    for text in bars(results):
        print(text)


def _setting(results: Results, setting: str, equal: str, held_out: bool) -> Iterator[str]:
    cells = results.select(setting, equal, held_out)
    tables = list(dict.fromkeys(cell.table for cell in cells))
    which = "held-out" if held_out else "tuning"
    rivals, compared = _compared(cells)
    yield table_text(
        f"{setting}, equal {equal}, {len(tables)} {which} tables",
        _HEADER,
        [_row(name, rows, rivals, compared.get(name)) for name, rows in _by_strategy(cells)],
    )
    yield table_text(
        f"{setting}, equal {equal}: share within 2 % by table, * more than ours",
        ("table", "points", *(name for name, _ in _by_strategy(cells))),
        [_by_table(table, cells) for table in tables],
    )
    found = list(losses(cells))
    if OURS in {cell.strategy for cell in cells}:
        yield "\n".join(found) if found else f"{OURS} is behind no other on any of these tables."
    yield ""


def _together(results: Results, equal: str) -> str | None:
    """Verdicts over all held-out tables of all settings, if there are several settings."""
    cells = [cell for cell in results.cells if cell.equal == equal and cell.held_out]
    settings = list(dict.fromkeys(cell.setting for cell in cells))
    groups = _by_strategy(cells)
    most = max((len(rows) for _, rows in groups), default=0)
    everywhere = {name for name, rows in groups if len(rows) == most}
    found = _differences([cell for cell in cells if cell.strategy in everywhere])
    if len(settings) < 2 or not found:
        return None
    said = {score: verdicts(rows) for score, rows in found.items()}
    rows = []
    for name, close in found["close"].items():
        regret = found["regret"][name]
        rows.append(
            [
                *(name, f"{100 * close.mean:+.1f}", _interval(close), said["close"][name]),
                *(f"{100 * regret.mean:+.2f}", _interval(regret, 2), said["regret"][name]),
            ]
        )
    return table_text(f"{', '.join(settings)} together, equal {equal}", _POOLED, rows)


def _resolutions(results: Results) -> list[tuple[str, float]]:
    """Resolutions of the tables that were replayed, as far as they were kept."""
    tables = dict.fromkeys(cell.table for cell in results.cells)
    kept = results.about.get("resolutions", {})
    return [(name, kept[name]) for name in tables if name in kept]


def _by_strategy(cells: Sequence[Cell]) -> list[tuple[str, list[Cell]]]:
    names = dict.fromkeys(cell.strategy for cell in cells)
    return [(name, [cell for cell in cells if cell.strategy == name]) for name in names]


def _compared(
    cells: Sequence[Cell],
) -> tuple[dict[str, tuple[str, str]], dict[str, Difference]]:
    """By rival: verdicts on the share within 2 % and on mean regret; and the share differences."""
    found = _differences(cells)
    if not found:
        return {}, {}
    shares, regrets = verdicts(found["close"]), verdicts(found["regret"])
    return {name: (shares[name], regrets[name]) for name in shares}, found["close"]


def _differences(cells: Sequence[Cell]) -> dict[str, dict[str, Difference]]:
    """Differences from each rival, by score and rival; empty without ours or without rivals."""
    groups = dict(_by_strategy(cells))
    ours = groups.pop(OURS, None)
    if ours is None or not groups:
        return {}
    rng = np.random.default_rng(0)
    return {
        score: {name: difference(paired(ours, rows, score), rng) for name, rows in groups.items()}
        for score in ("close", "regret")
    }


def _row(
    name: str,
    cells: Sequence[Cell],
    said: dict[str, tuple[str, str]],
    compared: Difference | None,
) -> list[str]:
    pooled = np.concatenate([cell.regrets for cell in cells])
    close = [cell.close.astype(float) for cell in cells]
    near = np.mean([(np.array(cell.regrets) <= NEAR).mean() for cell in cells])
    low, high = interval(close, np.random.default_rng(0))
    evaluations = [cell.evaluations for cell in cells]
    return [
        name,
        str(min(len(cell.regrets) for cell in cells)),
        _range(evaluations),
        f"{np.mean([cell.kernel_seconds for cell in cells]):.2f}",
        f"{100 * np.median(pooled):.2f}",
        f"{100 * np.quantile(pooled, 0.95):.1f}",
        f"{100 * np.mean([rows.mean() for rows in close]):.1f}",
        f"{100 * low:.1f} to {100 * high:.1f}",
        f"{100 * min(rows.mean() for rows in close):.1f}",
        f"{100 * near:.1f}",
        f"{100 * np.mean([cell.flips for cell in cells]):.0f}",
        f"{1e3 * np.mean([cell.optimiser_seconds for cell in cells]):.1f}",
        "" if compared is None else f"{100 * compared.mean:+.1f}",
        "" if compared is None else _interval(compared),
        *said.get(name, ("", "")),
    ]


def _by_table(table: str, cells: Sequence[Cell]) -> list[str]:
    """One row of shares, with a * where a strategy has more than ours."""
    mine = {cell.strategy: cell for cell in cells if cell.table == table}
    shares = {name: float(cell.close.mean()) for name, cell in mine.items()}
    ours = shares.get(OURS, 1.0)
    points = next(iter(mine.values())).points
    return [
        table,
        str(points),
        *(
            ("*" if shares[name] > ours else "") + f"{100 * shares[name]:.1f}"
            if name in shares
            else ""
            for name, _ in _by_strategy(cells)
        ),
    ]


def losses(cells: Sequence[Cell]) -> Iterator[str]:
    """Where another strategy is within 2 % more often than ours, beyond what chance explains."""
    groups = dict(_by_strategy(cells))
    for mine in groups.get(OURS, ()):
        rng = np.random.default_rng(0)
        for name, rows in groups.items():
            theirs = [cell for cell in rows if cell.table == mine.table]
            if name == OURS or not theirs:
                continue
            found = difference(paired([mine], theirs, "close"), rng)
            if found.interval[1] < 0:
                low, high = _hundred(found.interval)
                yield (
                    f"{OURS} is behind {name} on {mine.table}: {_percent(mine.close.mean(), 1)} "
                    f"against {_percent(theirs[0].close.mean(), 1)} "
                    f"({100 * found.mean:+.1f}, 95 %: {low:+.1f} to {high:+.1f})"
                )


def bars(results: Results) -> Iterator[str]:
    """For each bar that has held-out replays, whether it is held."""
    for bar in BARS:
        cells = [
            cell
            for cell in results.select(bar.setting, EVALUATIONS, held_out=True)
            if cell.strategy == OURS
        ]
        if not cells:
            continue
        shares = {
            cell.table: float((np.array(cell.regrets) <= bar.within).mean()) for cell in cells
        }
        worst = min(shares, key=shares.__getitem__)
        mean = float(np.mean(list(shares.values())))
        verdict = shares[worst] if bar.every_table else mean
        where = "every table" if bar.every_table else "all tables together"
        yield (
            f"{bar.setting}, {OURS}, within {_percent(bar.within, 0)} on {where}: bar "
            f"{_percent(bar.least, 1)}, {'held' if verdict >= bar.least else 'MISSED'}: "
            f"mean {_percent(mean, 1)}, worst {_percent(shares[worst], 1)} ({worst})"
        )


def table_text(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with a title, the first column aligned left and the others right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [title, ""]
    for row in (header, ["-" * width for width in widths], *rows):
        first, *others = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([*lines, ""])


def _percent(share: float, digits: int) -> str:
    return f"{100 * share:.{digits}f} %"


def _hundred(pair: tuple[float, float]) -> tuple[float, float]:
    return 100 * pair[0], 100 * pair[1]


def _interval(found: Difference, digits: int = 1) -> str:
    low, high = _hundred(found.interval)
    return f"{low:+.{digits}f} to {high:+.{digits}f}"


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.0f}" if round(low) == round(high) else f"{low:.0f}-{high:.0f}"
