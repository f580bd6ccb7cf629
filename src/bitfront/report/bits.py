"""Pictures of bits for papers and slides: fronts, heat maps, odds; the same numbers as the page, as PNG or SVG.

Source of the forms: thesis 000, figures 5.3 to 5.7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bitfront.report.figures import (
    ACCENT,
    CROSS,
    DOT,
    GRID,
    INK,
    MUTED,
    SERIES,
    encode,
    plain_figure,
    quiet_fonts,
    short,
)
from bitfront.report.palette import COLOURS, FLOAT_COLOUR, ink
from bitfront.report.search_series import Plane, plane, progress
from bitfront.report.searches import FLOAT_BITS, Member, Search, Tensor
from bitfront.report.tables import metric_name, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["front", "heat_map", "intervals", "odds_map", "plans_of", "sensitivity"]

MAX_NUMBERS = 400
"""Maps with more cells have no numbers in them."""


# --- the front -------------------------------------------------------------------------------------------------------
def front(search: Search, metric: str = "miou", form: str = "png") -> bytes:
    """Draw score against every cost, with the float score and the floor, and how the search got there."""
    planes = [plane(search, axis) for axis in range(len(search.costs))]
    steps = progress(search)
    with quiet_fonts():
        figure, axes = plain_figure(4.6 * (len(planes) + 1), 4.0, len(planes) + 1)
        for ax, each in zip(axes, planes, strict=False):
            _draw_front(ax, each, search, metric)
        _draw_progress(axes[-1], steps.hypervolume)
        title = ", ".join(t for t in (search.architecture, search.method) if t)
        figure.suptitle(short(title, 90), fontsize=10, color=INK, parse_math=False)
        handles, labels = axes[0].get_legend_handles_labels()
        if len(axes) > 1:
            figure.legend(
                handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=8, labelcolor=MUTED
            )
    return encode(figure, form)


def _draw_front(ax: Axes, p: Plane, search: Search, metric: str) -> None:
    if p.near_log:
        ax.set_xscale("log")
    ax.set_xlim(*p.near_x_range)
    ax.set_ylim(*p.near_y_range)
    ax.set_xlabel(p.cost.label, color=MUTED, fontsize=9, parse_math=False)
    ax.set_ylabel(f"{short(metric_name(metric), 40)}, %", color=MUTED, fontsize=9, parse_math=False)
    ax.scatter(*_columns(p.points), s=9, color=DOT, linewidths=0, label="evaluated", zorder=2)
    x, y = _columns(p.line)
    if len(x):
        ax.step([*x, p.near_x_range[1]], [*y, y[-1]], where="post", color=ACCENT, linewidth=1.3, zorder=3)
    kept = [xy for xy, m in zip(p.members, search.members, strict=True) if not m.dropped]
    lost = [xy for xy, m in zip(p.members, search.members, strict=True) if m.dropped]
    ax.scatter(*_columns(kept), s=38, color=ACCENT, edgecolors="white", label="plan put forward", zorder=5)
    ax.scatter(*_columns(lost), s=26, color=CROSS, marker="x", linewidths=1.3, label="dropped", zorder=5)
    uniform = [(x, y) for x, y, _ in p.labelled]
    ax.scatter(
        *_columns(uniform), s=30, marker="D", facecolors="white", edgecolors=SERIES[1], label="uniform bits", zorder=4
    )
    for px, py, text in p.labelled:
        if p.near_x_range[0] <= px <= p.near_x_range[1] and p.near_y_range[0] <= py <= p.near_y_range[1]:
            place: dict[str, Any] = {"xytext": (6, -9), "textcoords": "offset points", "fontsize": 7, "color": MUTED}
            ax.annotate(short(text, 24), (px, py), parse_math=False, **place)
    if search.float_score is not None:
        ax.axhline(100 * search.float_score, color=SERIES[2], linewidth=1, label="float32")
    if search.floor is not None:
        ax.axhline(100 * search.floor, color=INK, linewidth=0.8, linestyle=(0, (4, 4)), alpha=0.6, label="floor")


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in pairs], [y for _, y in pairs]


def _draw_progress(ax: Axes, steps: Sequence[tuple[int, float]]) -> None:
    if steps:
        ax.step([n for n, _ in steps], [100 * v for _, v in steps], where="post", color=ACCENT, linewidth=1.4)
    ax.set_xlabel("evaluations", color=MUTED, fontsize=9)
    ax.set_title("hypervolume, %", loc="left", fontsize=9, color=INK)


# --- heat maps -------------------------------------------------------------------------------------------------------
def heat_map(tensors: Sequence[Tensor], plans: Mapping[str, Mapping[str, int]], form: str = "png") -> bytes:
    """Draw the bits of tensors (columns, in execution order) in plans (rows, by name), weights and activations apart.

    Bars below show the tensors' sizes. A plan maps the tensors' names to bits; 32 means float32.
    """
    groups = [(title, own) for title, kinds in PANELS if (own := [t for t in tensors if t.group in kinds])]
    with quiet_fonts():
        height = sum(2.0 + 0.16 * max(1, len(plans)) for _ in groups) + 0.4
        figure, _ = plain_figure(13, max(2.0, height), 0)
        grid = figure.add_gridspec(
            2 * max(1, len(groups)), 1, height_ratios=[max(1.0, 0.16 * len(plans)), 0.5] * max(1, len(groups))
        )
        for n, (title, own) in enumerate(groups):
            _draw_cells(figure.add_subplot(grid[2 * n]), title, own, plans)
            _draw_sizes(figure.add_subplot(grid[2 * n + 1]), own)
        widths = sorted({b for plan in plans.values() for b in plan.values() if b in COLOURS})
        _legend(figure, widths)
    return encode(figure, form)


PANELS = (("weights", ("weight",)), ("activations", ("activation",)))


def _draw_cells(ax: Axes, title: str, own: Sequence[Tensor], plans: Mapping[str, Mapping[str, int]]) -> None:
    from matplotlib.colors import to_rgb

    cells = np.ones((max(1, len(plans)), len(own), 3))
    for row, plan in enumerate(plans.values()):
        for column, t in enumerate(own):
            colour = COLOURS.get(plan.get(t.name, 0))
            if colour is None:
                continue
            cells[row, column] = to_rgb(colour)
            if len(own) * len(plans) <= MAX_NUMBERS:
                text = "f" if plan[t.name] == FLOAT_BITS else str(plan[t.name])
                place: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 6, "in_layout": False}
                ax.text(column, row, text, color=ink(colour), **place)
    ax.imshow(cells, aspect="auto", interpolation="nearest")
    ax.set_yticks(range(len(plans)), [short(name, 34) for name in plans], fontsize=7, color=MUTED, parse_math=False)
    ax.set_xticks([])
    ax.set_yticks(np.arange(len(plans) + 1) - 0.5, minor=True)
    ax.set_xticks(np.arange(len(own) + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=0.6)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(title, loc="left", fontsize=9, color=INK)


def _draw_sizes(ax: Axes, own: Sequence[Tensor]) -> None:
    ax.stairs([t.size for t in own], np.arange(len(own) + 1) - 0.5, fill=True, color=DOT)
    ax.set_xlim(-0.5, len(own) - 0.5)
    ax.set_yticks([])
    step = -(-len(own) // 45)
    names = [short(t.name, 28) for t in own[::step]]
    ax.set_xticks(range(0, len(own), step), names, rotation=90, fontsize=5.5, color=MUTED, parse_math=False)
    ax.spines[:].set_visible(False)
    ax.set_ylabel("values", fontsize=7, color=MUTED, rotation=0, ha="right", va="center")


def _legend(figure: Any, widths: Sequence[int]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=COLOURS[b], label="float" if b == FLOAT_BITS else f"{b} bits") for b in widths]
    if patches:
        figure.legend(handles=patches, loc="outside upper right", ncols=12, frameon=False, fontsize=8, labelcolor=MUTED)


def plans_of(search: Search) -> dict[str, Mapping[str, int]]:
    """Return the plans of a search by a name for their row."""
    return {_row_name(search, m): m.bits for m in search.members}


def _row_name(search: Search, m: Member) -> str:
    cost = search.costs[0] if search.costs else None
    size = f"{number(cost.factor * m.costs[0])} {cost.unit}, " if cost is not None else ""
    return f"{m.number}: {size}{100 * m.score:.2f} %{', dropped' if m.dropped else ''}"


# --- odds and scores with one tensor quantized -----------------------------------------------------------------------
def intervals(tensor: Tensor, float_score: float | None = None, form: str = "png") -> bytes:
    """Draw with which odds the widths of a tensor are drawn, from equal to biased, and the scores behind them.

    Left the score with this tensor alone at every width, against float; right [0, 1] divided by the odds.
    """
    known = [w for w in tensor.widths if w.score is not None]
    drawn = [w for w in tensor.widths if w.odds is not None]
    with quiet_fonts():
        figure, axes = plain_figure(9, 2.8, 2)
        ax = axes[0]
        ax.plot([w.bits for w in known], [100 * (w.score or 0) for w in known], color=ACCENT, marker="o", linewidth=1.3)
        if float_score is not None:
            ax.axhline(100 * float_score, color=SERIES[2], linewidth=1)
            place: dict[str, Any] = {"fontsize": 7, "ha": "right", "va": "bottom", "color": MUTED}
            ax.text(0.99, 100 * float_score, "float32", transform=ax.get_yaxis_transform(), **place)
        ax.set_xticks([w.bits for w in tensor.widths])
        ax.set_xlabel("bits", color=MUTED, fontsize=9)
        ax.set_title("score with it alone quantized, %", loc="left", fontsize=9, color=INK)
        _draw_interval(axes[1], "equal", [(w.bits, 1 / len(drawn)) for w in drawn], 1)
        _draw_interval(axes[1], "biased", [(w.bits, w.odds or 0.0) for w in drawn], 0)
        axes[1].set_yticks([0, 1], ["biased", "equal"])
        axes[1].set_xlim(0, 1)
        axes[1].set_ylim(-0.6, 1.6)
        axes[1].grid(visible=False)
        axes[1].set_title("odds of each width", loc="left", fontsize=9, color=INK)
        figure.suptitle(short(tensor.name, 80), fontsize=10, color=INK, parse_math=False)
    return encode(figure, form)


def _draw_interval(ax: Axes, name: str, odds: Sequence[tuple[int, float]], y: int) -> None:
    left = 0.0
    for bits, p in odds:
        colour = COLOURS.get(bits, FLOAT_COLOUR)
        ax.barh(y, p, 0.7, left=left, color=colour, edgecolor="white", label=name)
        if p > 0.05:
            ax.text(
                left + p / 2, y, f"{bits}\n{100 * p:.0f} %", ha="center", va="center", fontsize=7, color=ink(colour)
            )
        left += p


def odds_map(tensors: Sequence[Tensor], form: str = "png") -> bytes:
    """Draw the odds of all searched tensors: a column each, in execution order, divided as its widths are drawn."""
    own = [t for t in tensors if t.fixed is None and len(t.widths) > 1 and any(w.odds for w in t.widths)]
    widths = sorted({w.bits for t in own for w in t.widths})
    with quiet_fonts():
        figure, (ax,) = plain_figure(13, 3.2)
        bottom = np.zeros(len(own))
        for bits in widths:
            share = np.array([100 * (w.odds or 0.0) if (w := t.width(bits)) else 0.0 for t in own])
            colour = COLOURS.get(bits, FLOAT_COLOUR)
            ax.stairs(bottom + share, np.arange(len(own) + 1) - 0.5, baseline=bottom, fill=True, color=colour)
            bottom = bottom + share
        ax.set_xlim(-0.6, len(own) - 0.4)
        ax.set_xlabel("tensors in execution order", color=MUTED, fontsize=9)
        ax.set_title("odds of each width, %", loc="left", fontsize=9, color=INK)
        _legend(figure, [b for b in widths if b in COLOURS])
    return encode(figure, form)


def sensitivity(tensors: Sequence[Tensor], form: str = "png") -> bytes:
    """Draw the distortion of every tensor (columns, in execution order) at every width, on a logarithmic axis."""
    own = [t for t in tensors if any(w.distortion for w in t.widths)]
    widths = sorted({w.bits for t in own for w in t.widths})
    with quiet_fonts():
        figure, (ax,) = plain_figure(13, 3.4)
        for bits in widths:
            at = [(n, w.distortion) for n, t in enumerate(own) if (w := t.width(bits)) is not None and w.distortion]
            colour = COLOURS.get(bits, FLOAT_COLOUR)
            ax.plot([n for n, _ in at], [d for _, d in at], ".", markersize=4, color=colour, linestyle="none")
        if own:
            ax.set_yscale("log")
        ax.grid(axis="y", color=GRID, linewidth=0.7)
        ax.set_xlabel("tensors in execution order", color=MUTED, fontsize=9)
        ax.set_title("distortion of the outputs, one tensor quantized at a time", loc="left", fontsize=9, color=INK)
        _legend(figure, [b for b in widths if b in COLOURS])
    return encode(figure, form)
