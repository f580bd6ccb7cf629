"""What all pictures share: colours, axes, encoding; drawn by matplotlib without a display."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bitfront.errors import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "ACCENT",
    "CROSS",
    "DOT",
    "GRID",
    "INK",
    "MUTED",
    "SERIES",
    "encode",
    "log_axis",
    "plain_axes",
    "plain_figure",
    "quiet_fonts",
    "short",
]

INK, MUTED, GRID, ACCENT, DOT, CROSS = "#15181e", "#59606c", "#e3e6eb", "#2454d8", "#aab1bd", "#c07a4d"
SERIES = (ACCENT, "#b1520c", "#0c7a58", "#8a3fb3", "#76681a", "#a32a52")
DPI = 150


@contextmanager
def quiet_fonts() -> Iterator[None]:
    """Names may hold letters that the font lacks; boxes in their place are enough."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .*", category=UserWarning)
        yield


def plain_figure(width: float, height: float, n: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure of ``width`` x ``height`` inches with ``n`` plain axes side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(drawn)
    axes = [drawn.add_subplot(1, n, k + 1) for k in range(n)]
    for ax in axes:
        plain_axes(ax)
    return drawn, axes


def plain_axes(ax: Axes) -> None:
    """Leave of the axes what is needed: two quiet spines, small ticks, horizontal grid lines."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GRID)
    ax.tick_params(colors=MUTED, labelsize=8, length=3, color=GRID)
    ax.grid(axis="y", color=GRID, linewidth=0.7)
    ax.set_axisbelow(True)


def log_axis(ax: Axes) -> None:
    """Make the costs' axis logarithmic, with ticks at 1, 2 and 5 that are written in full."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.minorticks_off()


def encode(drawn: Figure, form: str = "png") -> bytes:
    """Return a figure as ``png`` or ``svg``."""
    out = io.BytesIO()
    with quiet_fonts():
        drawn.savefig(
            out, format=form, metadata={"Software": None} if form == "png" else {"Date": None, "Creator": None}
        )
    return out.getvalue()


def short(text: str, n: int) -> str:
    """Return a text on one line, cut to ``n`` letters."""
    text = one_line(text)
    return text if len(text) <= n else f"{text[: n - 1]}…"
