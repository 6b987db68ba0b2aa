"""A picture: its colours and fonts, and how it becomes a file or a part of the page.

Each picture is small enough to be read on a phone; the page lays them side by side where there
is room.  Colours stand for variables of the page's stylesheet, so that the light and the dark
page share a picture; a picture in a file of its own carries both.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

INCHES = (4.7, 3.3)
PANEL_INCHES = (2.1, 1.8)

# Variable of the stylesheet -> light, dark.  Okabe and Ito's hues, made darker or lighter until
# they stand out from the paper; markers and dashes tell them apart too.
COLOURS = {
    "paper": ("#fdfdfc", "#16191d"),
    "ink": ("#1c2126", "#e8e9ea"),
    "muted": ("#565e66", "#a3abb3"),
    "rule": ("#dcdfe2", "#343a41"),
    "numpy": ("#6a6f75", "#b4b9be"),
    "numba": ("#a85b00", "#e69f00"),
    "cython": ("#00639c", "#56b4e9"),
}
INK, MUTED, RULE, PAPER = (COLOURS[name][0] for name in ("ink", "muted", "rule", "paper"))
STYLES: dict[str, dict[str, Any]] = {
    "numpy": {"color": COLOURS["numpy"][0], "marker": "s", "linestyle": (0, (1.5, 1.5))},
    "numba": {"color": COLOURS["numba"][0], "marker": "^", "linestyle": (0, (5, 2))},
    "cython": {"color": COLOURS["cython"][0], "marker": "o", "linestyle": "-"},
}
# Other libraries share colours with ours, but are never in one picture with ours of that colour.
STYLES |= {
    "torch-sdpa": STYLES["numba"],
    "torch-hand": STYLES["numpy"] | {"marker": "D"},
    "torch-mha": STYLES["numpy"] | {"marker": "v"},
}
SETTINGS: Any = {  # the names of settings have a type of their own
    "svg.hashsalt": "fastattn",
    "svg.fonttype": "none",
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "lines.linewidth": 1.7,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
}


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture that can be drawn.

    Attributes
    ----------
    name : str
        Name of its files, without the suffix.
    title, text : str
        What it shows, and what can be seen in it: for those who cannot see it.
    draw : callable
        Draws into a Matplotlib figure.
    inches : (float, float)
    """

    name: str
    title: str
    text: str
    draw: Callable[[Any], None]
    inches: tuple[float, float] = INCHES


def ticks(axis: Any, text: Callable[[float], str]) -> None:
    """Put few labels on an axis, as text; if logarithmic, at 1, at 1 and 3, or at 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    if axis.get_scale() == "log":
        low, high = axis.get_view_interval()
        decades = math.log10(high / low)
        steps = (1.0,) if decades > 2.2 else (1.0, 3.0) if decades > 1.5 else (1.0, 2.0, 5.0)
        axis.set_major_locator(LogLocator(10, steps))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.set_tick_params(length=0, which="both")


def legend(axes: Any) -> None:
    if not axes.get_legend_handles_labels()[0]:
        return
    box = {"loc": "lower left", "bbox_to_anchor": (-0.02, 0.985), "borderaxespad": 0}
    axes.legend(**box, ncols=3, handlelength=2.2, columnspacing=1.4).set_in_layout(False)
    axes.set_title(axes.get_title(loc="left"), pad=26)


def draw(chart: Chart, png: Path | None = None) -> str:
    """Draw a chart as Matplotlib's SVG, which `dress` takes, and as PNG if a path is given."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(SETTINGS):
        figure = Figure(figsize=chart.inches, layout="constrained")
        FigureCanvasAgg(figure)
        chart.draw(figure)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
        if png is not None:
            figure.savefig(png, dpi=160)
    return stream.getvalue()


def dress(text: str, chart: Chart, inline: bool = True) -> str:
    """Give an SVG from `draw` a name for screen readers, the page's colours and fonts, and own ids.

    The result is for the page or, if not `inline`, for a file with a stylesheet of its own.
    """
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    if inline:  # it would style the whole page
        text = re.sub(r"<style\b.*?</style>", "", text, flags=re.DOTALL)
    used = set(re.findall(r"""(?:url\(#|href="#)([^)"]+)""", text))
    text = re.sub(
        r'\sid="([^"]+)"',
        lambda found: f' id="{chart.name}-{found[1]}"' if found[1] in used else "",
        text,
    )
    text = re.sub(r"""(url\(#|href="#)""", rf"\g<1>{chart.name}-", text)
    for name, (light, _) in COLOURS.items():
        text = text.replace(light, f"var(--{name}, {light})")
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans, system-ui), sans-serif", text)
    opening, _, rest = text.partition(">")
    opening = re.sub(r'\s(?:width|height)="[^"]+"', "", opening)
    name = escape(f"{chart.title}. {chart.text}")
    own = "" if inline else f"<style>{variables(':root')}</style>"
    return f'{opening} role="img" aria-label="{name}">{own}{rest}'


def variables(selector: str) -> str:
    """The colours as variables of a stylesheet, light and dark."""
    light, dark = (
        "".join(f"--{name}:{pair[shade]};" for name, pair in COLOURS.items()) for shade in (0, 1)
    )
    return f"{selector}{{{light}}}@media(prefers-color-scheme:dark){{{selector}{{{dark}}}}}"
