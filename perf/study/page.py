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
            "Q, K and V are matrices of size dim × dim (one head). Cython uses the block, the "
            "threads and the data type that the genetic tuner found in the study’s space; NumPy "
            "and Numba compute in the same data type. Each implementation may use "
            f"{formats.plural(cpus, 'CPU')}.",
        ),
        (tables.table_1(record),),
        notes=("Bold: the fastest of the three.",),
    )


def _figure(record: Record) -> Section:
    title = "Time and speed-up against dim"
    if not record.dims():
        return Section("figure-1", title, ("Not measured.",))
    return Section(
        "figure-1",
        title,
        ("Vertical lines are 95 % intervals over the processes.",),
        charts=tuple(charts.figure_1(record)),
        numbers=(tables.variations(record),),
    )


def _study(record: Record) -> Section:
    title = "Comparison with the study"
    if not record.dims():
        return Section("study", title, ("Not measured.",))
    means = {impl: tables.speedup_means(record, impl) for impl in tables.OTHERS}
    text = " ".join(
        f"{formats.NAMES[impl]}: here {formats.times(ours)}, in the study {formats.times(study)}."
        for impl, (ours, study) in means.items()
    )
    return Section(
        "study",
        title,
        (
            f"{STUDY_TITLE} made the same comparison on another machine, with its own "
            "implementations. Compare only ratios between machines. Geometric mean of the speed-up "
            "over NumPy: " + text,
        ),
        (tables.speedups(record), tables.study_1(record)),
    )


def _torch(record: Record) -> Section:
    title = "Comparison with PyTorch"
    if record.peers is None:
        reason = record.peers_reason or "the run was stopped before"
        return Section("torch", title, (f"Not measured: {reason}.",))
    text = (
        f"The blog’s test ({BLOG_TITLE}) has batch 4, 2 heads, length 100, head size 32 and "
        "uniform inputs. It compared hand-written attention with PyTorch’s "
        "scaled_dot_product_attention (SDPA). Here Cython runs with its default configuration, and "
        "every library has the same number of threads.",
    )
    blog = tables.blog(record)
    return Section(
        "torch",
        title,
        text,
        () if blog is None else (blog,),
        tuple(charts.torch(record)),
        numbers=tuple(tables.peers(record)),
        notes=(
            "Right of 1, Cython is faster. Lines are intervals with the middle 80 % of the "
            "repetitions.",
        ),
    )


def _roofline(record: Record) -> Section:
    title = "Fraction of the machine’s peak"
    chart = charts.roofline(record)
    if chart is None:
        return Section("roofline", title, ("Not measured.",))
    return Section(
        "roofline",
        title,
        (
            "The fraction of peak is the shortest time that the machine allows, over the measured "
            "time. The shortest time is that of the multiplications and additions at the peak of "
            "FMA (in bfloat16, at that of bfloat16 products if it is higher), or that of reading "
            "keys and values once at streaming bandwidth, whichever is longer. Both limits are "
            "measured alternately with the calls. AMX computes float32 and float16 by bfloat16 "
            "products, so the fraction of the FMA peak can exceed 100 %.",
        ),
        charts=(chart,),
        numbers=(tables.roofline(record),),
    )


def _sharing(record: Record) -> Section:
    title = "Thread pool and OpenMP"
    if record.sharing is None or "reason" in record.sharing:
        reason = (record.sharing or {}).get("reason", "the run was stopped before")
        return Section("sharing", title, (f"Not measured: {reason}.",))
    return Section(
        "sharing",
        title,
        (
            "The threads of a call are those of fastattn’s own pool or, with "
            "FASTATTN_THREADING=openmp, those of OpenMP. One process of each kind computes the "
            "same calls, in alternating blocks, with one thread for each CPU. “Idle” is without "
            "load from this test; “contended” is with another process that keeps one CPU busy.",
        ),
        (tables.sharing(record.sharing["ratios"]),),
        notes=("Above 1, the pool is faster.",),
    )


def _tuner(record: Record) -> Section:
    title = "Searches of the tuner"
    if not record.tunings:
        return Section("tuner", title, ("Not measured.",))
    return Section(
        "tuner",
        title,
        (
            "The space has 32 points: block 8 to 64, threads 1 to 8, float32 and float64. The "
            "pictures show the time of each point over that of the default (block 64, all CPUs, "
            "float32), in the order of measurement. Dots were measured completely, crosses were "
            "dropped early; the line is the best so far.",
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
        "Results are checked first: a result that differs from one in a wider type by more than "
        "rounding is not timed.",
        "In one process, the three implementations are measured alternately, in blocks of calls, "
        "in random, balanced order. Before a block, all other threads of the process sleep. The "
        "first 8 ms of a block are not timed, because threads and a CPU that was idle need time to "
        "reach full speed. A time is the median over the blocks; a speed-up is the median of the "
        "ratios within a repetition.",
        f"Processes for each dim: {record.wanted}. Values are medians over the processes. "
        "Intervals are exact 95 % intervals of the median (the range, if there are fewer than 6).",
        "If other processes used much of the CPU time, a measurement is repeated, at most once. "
        "The least contended ones count; the selection does not depend on their times.",
        f"Each implementation may use {cpus}. NumPy’s BLAS has as many threads, Numba chooses its "
        "number, and Cython has the number that the tuner found.",
        "The coefficient of variation is the standard deviation of the samples over their mean, "
        "within a process.",
    ]


def machine(record: Record) -> list[tuple[str, str]]:
    """The machine, the versions, and the other load."""
    about, load = record.about, median_load(record)
    facts = about["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    average = about.get("load_average")
    others = (
        f"other processes used {formats.percent(load['others'])} of the CPU time (median over the "
        f"processes of Table 1; at most {formats.percent(load['most'])}), the hypervisor "
        f"{formats.percent(load['stolen'])}"
    )
    if record.roofline_load and record.roofline_load["others"] is not None:
        share = formats.percent(record.roofline_load["others"])
        others += f"; during the measurement of the peak {share}"
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
        found.append("The measurement was stopped, so the report is incomplete.")
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
        found.append(f"Fewer than {record.wanted} processes for a dim: {counts}.")
    where = ""
    if contended := record.contended():
        where = f"at {formats.plural(len(contended), 'dim')} of {len(record.dims())}"
    elif any(fact.contended for fact in tables.facts(record)):
        where = "during the comparison with PyTorch"
    if where:
        found.append(
            f"Contended: other processes used more than {100 * LOST_SHARE:.0f} % of the CPU time "
            f"{where} ({MARK}). Measure again on an idle machine."
        )
    if forced := conditions.forced(record.about["environment"]):
        found.append(forced)
    if record.wanted < 6:
        found.append(
            f"A short run: {formats.plural(record.wanted, 'process')} for each dim, so intervals "
            "are ranges."
        )
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
