"""index.html, report.md and the pictures beside them, from a record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.conditions import LOST_SHARE
from perf import conditions
from perf.study import charts, formats, picture, tables
from perf.study.data import Record
from perf.study.measure import median_load
from perf.study.picture import Chart
from perf.study.published import BLOG_TITLE, STUDY_TITLE
from perf.study.tables import Table

HERE = Path(__file__).parent
MARK = "†"


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report.

    Attributes
    ----------
    name : str
        Name of its anchor.
    title : str
    text : tuple of str
        Paragraphs before the tables and charts; `notes` come after them.
    tables : tuple of Table
    charts : tuple of Chart
    small : bool
        Whether the page lays out the charts in several columns.
    numbers : tuple of Table
        What the charts show, as numbers, folded on the page.
    file : Chart or None
        Picture that stands for the charts in Markdown.
    """

    name: str
    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    small: bool = False
    numbers: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    file: Chart | None = None

    def pictures(self) -> tuple[Chart, ...]:
        """Charts that get files of their own."""
        return self.charts if self.file is None else (self.file,)


def sections(record: Record) -> list[Section]:
    """The sections of the report, in order."""
    return [
        _grid(record),
        _figure(record),
        _study(record),
        _torch(record),
        _roofline(record),
        _sharing(record),
        _tuner(record),
    ]


def _grid(record: Record) -> Section:
    if not record.dims():
        return Section("table-1", "Three implementations", ("Not measured.",))
    cpus = record.about["cpus"]
    return Section(
        "table-1",
        "Three implementations",
        (
            "Q, K and V are dim × dim, one head. Block, threads and data type of Cython are those "
            "that the genetic tuner found in the study’s space; NumPy and Numba compute in the "
            f"same data type. Each may use the whole machine: {formats.plural(cpus, 'CPU')}.",
        ),
        (tables.table_1(record),),
        notes=("Bold: the fastest of the three.",),
    )


def _figure(record: Record) -> Section:
    if not record.dims():
        return Section("figure-1", "Over the dims", ("Not measured.",))
    return Section(
        "figure-1",
        "Over the dims",
        ("Vertical strokes are intervals of 95 % over the processes.",),
        charts=tuple(charts.figure_1(record)),
        numbers=(tables.variations(record),),
    )


def _study(record: Record) -> Section:
    if not record.dims():
        return Section("study", "Beside the study", ("Not measured.",))
    means = {impl: tables.speedup_means(record, impl) for impl in tables.OTHERS}
    text = " ".join(
        f"{formats.NAMES[impl]}: here {formats.times(ours)}, in the study {formats.times(study)}."
        for impl, (ours, study) in means.items()
    )
    return Section(
        "study",
        "Beside the study",
        (
            f"{STUDY_TITLE} asked the same on another machine, with implementations of its own. "
            "Only ratios travel between machines. Geometric mean of the speed-up over NumPy: "
            + text,
        ),
        (tables.speedups(record), tables.study_1(record)),
    )


def _torch(record: Record) -> Section:
    if record.peers is None:
        reason = record.peers_reason or "it was stopped before"
        return Section("torch", "Beside PyTorch", (f"Not measured: {reason}.",))
    text = (
        f"The blog’s test ({BLOG_TITLE}): batch 4, heads 2, length 100, head size 32, uniform "
        "inputs; hand-written attention against scaled_dot_product_attention. Here Cython runs "
        "with its shipped configuration, and every library has the same threads.",
    )
    blog = tables.blog(record)
    return Section(
        "torch",
        "Beside PyTorch",
        text,
        () if blog is None else (blog,),
        tuple(charts.torch(record)),
        numbers=tuple(tables.peers(record)),
        notes=("Right of 1 Cython is faster. Strokes hold the middle 80 % of the repetitions.",),
    )


def _roofline(record: Record) -> Section:
    chart = charts.roofline(record)
    if chart is None:
        return Section("roofline", "Against the peak", ("Not measured.",))
    return Section(
        "roofline",
        "Against the peak",
        (
            "Least time that the machine allows over the time taken: useful multiplications and "
            "additions at the peak of FMA (in bfloat16, of its products if that is more), or keys "
            "and values read once at streaming speed, whichever is longer. Both limits are probed "
            "in turn with the calls. Tiles, which compute float32 and float16 as sums of bfloat16 "
            "products, can exceed the FMA peak.",
        ),
        charts=(chart,),
        numbers=(tables.roofline(record),),
    )


def _sharing(record: Record) -> Section:
    title = "Sharing a call’s work"
    if record.sharing is None or "reason" in record.sharing:
        reason = (record.sharing or {}).get("reason", "it was stopped before")
        return Section("sharing", title, (f"Not measured: {reason}.",))
    return Section(
        "sharing",
        title,
        (
            "Threads of a call come from fastattn’s pool, or from OpenMP with "
            "FASTATTN_THREADING=openmp. A process of each computes the same calls, in "
            "alternating blocks, with a thread for each CPU; idle, and beside a process that "
            "keeps one of the CPUs busy.",
        ),
        (tables.sharing(record.sharing["ratios"]),),
        notes=("Above 1 the pool is faster.",),
    )


def _tuner(record: Record) -> Section:
    if not record.tunings:
        return Section("tuner", "The search", ("Not measured.",))
    return Section(
        "tuner",
        "The search",
        (
            "Time over that of the default (block 64, all CPUs, float32), in the order of "
            "measurement. Dots: measured; crosses: dropped early; line: the best so far. The "
            "space has block 8 to 64, threads 1 to 8, float32 and float64: 32 points.",
        ),
        (tables.tunings(record),),
        tuple(charts.searches(record)),
        small=True,
        file=charts.all_searches(record),
    )


def how(record: Record) -> list[str]:
    """How Table 1 was measured."""
    cpus = formats.plural(record.about["cpus"], "CPU")
    return [
        "Agreement first: a result that is further than rounding from a wider type is not timed.",
        "In one process the three take turns in random, balanced order; before a turn every other "
        "thread of the process sleeps, and the turn’s first 8 ms, in which its own and a CPU that "
        "has rested come up to speed, are not timed. A time is the median of the turns, a "
        "speed-up the median of ratios within a repetition.",
        f"Processes for each dim: {record.wanted}. Values are medians over them, "
        "intervals exact ones of the median, at 95 % (the range, where there are fewer than six).",
        "Processes during which others took much of the CPUs’ time are measured again, at most "
        "once each; the least contended count, chosen without a look at their times.",
        f"Equal machines: each implementation may use {cpus}. NumPy’s BLAS has as many threads, "
        "Numba chooses among them, Cython has the threads that were found.",
        "The coefficient of variation is the standard deviation of the turns over their mean.",
    ]


def machine(record: Record) -> list[tuple[str, str]]:
    """What was measured on and with, and what else the machine did."""
    about, load = record.about, median_load(record)
    facts = about["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    average = about.get("load_average")
    others = (
        f"others took {formats.percent(load['others'])} of the CPUs’ time (median over Table 1’s "
        f"processes; at most {formats.percent(load['most'])}), the hypervisor "
        f"{formats.percent(load['stolen'])}"
    )
    if record.roofline_load and record.roofline_load["others"] is not None:
        others += (
            f"; against the peak others took {formats.percent(record.roofline_load['others'])}"
        )
    if average is not None:
        others += f"; load average at the start {average:.1f}"
    return [
        ("Processor", f"{facts['processor']}, {facts['usable_cpus']} of {facts['cpus']} CPUs"),
        ("Instruction sets", facts["isas"].strip("()").replace("'", "").rstrip(",")),
        ("System", about["system"]),
        ("Versions", versions),
        ("Commit", f"{about['commit']}, measured {about['date']}"),
        ("Load", others),
    ]


def warnings(record: Record) -> list[str]:
    """What a reader must know before reading the numbers."""
    found = []
    if record.interrupted:
        found.append("The measurement was stopped: something is missing.")
    for (impl, failure), dims in record.failures().items():
        at = formats.listed([str(dim) for dim in dict.fromkeys(dims)])
        found.append(
            f"{formats.NAMES[impl]} failed in {formats.plural(len(dims), 'process')} of dim {at}: "
            f"{failure}"
        )
    for impl, reason in record.reasons().items():
        found.append(f"{formats.NAMES[impl]} was not measured: {reason}.")
    if few := [dim for dim in record.dims() if len(record.kept(dim)) < record.wanted]:
        counts = formats.listed([f"{len(record.kept(dim))} of dim {dim}" for dim in few])
        found.append(f"Few: of {record.wanted} processes for each dim count {counts}.")
    if contended := record.contended():
        found.append(
            f"Contended: others took more than {100 * LOST_SHARE:.0f} % of the CPUs’ "
            f"time at {formats.plural(len(contended), 'dim')} of {len(record.dims())} ({MARK}). "
            "Measure again on an idle machine."
        )
    if forced := conditions.forced(record.about["environment"]):
        found.append(forced)
    if record.wanted < 6:
        found.append(f"A short run: processes for each dim, {record.wanted}.")
    return found


def render(record: Record, folder: Path) -> list[Path]:
    """Write it all, and return the paths of the page and the Markdown."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found = sections(record)
    values: dict[str, Any] = {
        "answer": tables.answer(record),
        "facts": tables.facts(record),
        "warnings": warnings(record),
        "sections": found,
        "how": how(record),
        "machine": machine(record),
        "mark": MARK,
    }
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for section in found:
        files = {chart.name for chart in section.pictures()}
        for chart in dict.fromkeys((*section.charts, *section.pictures())):
            png = folder / f"{chart.name}.png" if chart.name in files else None
            drawn[chart.name] = picture.dress(text := picture.draw(chart, png), chart)
            if png is not None:
                alone = picture.dress(text, chart, inline=False)
                png.with_suffix(".svg").write_text(alone, encoding="utf-8")
    style = picture.variables(":root") + (HERE / "page.css").read_text(encoding="utf-8")
    written = []
    for template, name in (("page.html.j2", "index.html"), ("page.md.j2", "report.md")):
        text = environment.get_template(template).render(**values, style=style, drawn=drawn)
        written.append(folder / name)
        written[-1].write_text(text, encoding="utf-8")
    return written
