"""What a comparison found: Markdown for a pull request, JSON beside it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from benchmarks import conditions
from perf import report
from perf.paired.engine import Comparison
from perf.paired.rule import Round, Verdict

VERDICTS = ("worse", "better", "same", "unresolved")
TROUBLES = {"wrong": "**disagrees with the oracle**, ", "failed": "**failed**, ", "cannot": ""}


def markdown(found: Comparison, about: Mapping[str, Any]) -> str:
    """Heading, counts, one row for each cell, and how to read them."""
    rule = found.rule
    counts = ", ".join(f"{found.count(word)} {word}" for word in VERDICTS)
    lines = [f"**{about['base']} → {about['head']}**: {counts}"]
    if found.stopped:
        lines.append(f"\n**Incomplete: {found.stopped}.**")
    if found.lost() > conditions.LOST_SHARE:
        lines.append(f"\n**Contended: others had {100 * found.lost():.0f} % of the CPU.**")
    if found.verdicts:
        lines += [
            "",
            "| benchmark | base | head / base | interval | rounds | discarded | verdict |",
            "|---|--:|--:|--:|--:|--:|---|",
        ]
    order = {word: index for index, word in enumerate(VERDICTS)}
    for name, verdict in sorted(found.verdicts.items(), key=lambda item: order[item[1].word]):
        lines.append(_row(name, verdict, found))
    if found.troubles:
        lines += ["", "Not compared:", ""]
        lines += [
            f"- {name}: {TROUBLES[trouble.kind]}{trouble.text}"
            for name, trouble in found.troubles.items()
        ]
    lines += [
        "",
        f"{about['machine']}, {about['threads']} thread(s), suite {about['suite']}, "
        f"{about['minutes']:.0f} min. Ratio: median over rounds, each of which starts both "
        f"processes anew; its interval covers at least {100 * rule.confidence:g} %. "
        f"*same*: the interval lies within ±{100 * rule.band:g} %. *worse*, *better*: beyond "
        f"that, by a sign test on fresh rounds, with at most {100 * rule.alpha:g} % for any false "
        "alarm in the table. \\* by the screening.",
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, verdict: Verdict, found: Comparison) -> str:
    seconds = [one.base_seconds for one in found.rounds(name)]
    ratio = interval = "-"
    if verdict.ratio is not None and verdict.low is not None and verdict.high is not None:
        ratio, interval = f"{verdict.ratio:.3f}", f"{verdict.low:.3f} - {verdict.high:.3f}"
    share = found.discarded(name)
    word = verdict.word if verdict.word == "same" else f"**{verdict.word}**"
    return " | ".join(
        (
            f"| {name}",
            report.seconds(statistics.median(seconds)) if seconds else "-",
            ratio,
            interval,
            f"{verdict.rounds}{'*' * verdict.screened}",
            "-" if share is None else f"{100 * share:.0f} %",
            f"{word}{f': {verdict.reason}' if verdict.reason else ''} |",
        )
    )


def record(found: Comparison, about: Mapping[str, Any]) -> dict[str, Any]:
    """The whole comparison for JSON: no infinities, and the log ratio of each round."""
    return {
        **about,
        "rule": asdict(found.rule),
        "status": found.status,
        "stopped": found.stopped,
        "lost_share": found.lost(),
        "verdicts": {
            name: {key: _number(value) for key, value in asdict(verdict).items()}
            | {"discarded": found.discarded(name)}
            for name, verdict in found.verdicts.items()
        },
        "troubles": {name: asdict(trouble) for name, trouble in found.troubles.items()},
        "screening": _rounds(found.screening),
        "confirming": _rounds(found.confirming),
    }


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _rounds(rounds: Mapping[str, list[Round]]) -> dict[str, list[dict[str, Any]]]:
    return {name: [asdict(one) for one in many] for name, many in rounds.items()}
