"""Pictures for papers and slides: the same numbers as the page, drawn by matplotlib without a display."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bitfront.contracts import Metrics
from bitfront.report.axes import available
from bitfront.report.data import ReportData, shown_metrics
from bitfront.report.figures import (
    ACCENT,
    CROSS,
    DOT,
    INK,
    MUTED,
    SERIES,
    encode,
    log_axis,
    plain_figure,
    quiet_fonts,
    short,
)
from bitfront.report.pictures import MAX_PANELS
from bitfront.report.series import Plane, judge, plane
from bitfront.report.tables import metric_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw", "place_labels"]

MAX_CONFUSION_CLASSES = 40


def draw(data: ReportData) -> dict[str, bytes]:
    """Return file name -> encoded picture, for those pictures that there is something to draw of."""
    found: dict[str, bytes] = {}
    with quiet_fonts():
        planes = [plane(data, axis) for axis in available(data.records)[:2]]
        if any(p.points for p in planes):
            found["pareto.png"] = _pareto(planes, data.name)
        if data.curves:
            found["results.png"] = _results(data)
        metrics = _confusion_source(data)
        if metrics is not None:
            found["confusion_matrix.png"] = _confusion(metrics, data)
    predictions = _predictions(data)
    if predictions:
        found["val_predictions.jpg"] = predictions
    return found


# --- Pareto ----------------------------------------------------------------------------------------------------------
def _pareto(planes: Sequence[Plane], name: str) -> bytes:
    figure, axes = plain_figure(5.5 * len(planes), 4.6, len(planes))
    for ax, each in zip(axes, planes, strict=True):
        _draw_plane(ax, each)
    figure.suptitle(short(name, 80), fontsize=10, color=INK, parse_math=False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=8, labelcolor=MUTED)
    figure.draw_without_rendering()  # lays the axes out: labels are placed in pixels
    for ax, each in zip(axes, planes, strict=True):
        _label_front(figure, ax, each)
    return encode(figure)


def _draw_plane(ax: Axes, p: Plane) -> None:
    if p.log:
        log_axis(ax)
    ax.set_xlim(*p.x_range)
    ax.set_ylim(*p.y_range)
    ax.set_xlabel(f"{p.axis.title}, {p.axis.unit}", color=MUTED, fontsize=9)
    ax.set_ylabel(f"{short(metric_name(p.metric), 40)}, % (val)", color=MUTED, fontsize=9, parse_math=False)
    _draw_window(ax, p)
    x, y = (np.clip([q[k] for q in p.line], *r) for k, r in enumerate((p.x_range, p.y_range)))
    if len(x):
        ax.step([*x, p.x_range[1]], [*y, y[-1]], where="post", color=ACCENT, linewidth=1.4, zorder=3)
    styles: tuple[tuple[str, dict[str, Any]], ...] = (
        ("dropped", {"marker": "x", "color": CROSS, "s": 26, "linewidths": 1.3}),
        ("dominated", {"marker": "o", "color": DOT, "s": 26}),
        ("front", {"marker": "o", "color": ACCENT, "s": 42, "edgecolors": "white"}),
    )
    for status, style in styles:
        own = np.array([(q.x, q.y) for q in p.points if q.status == status]).reshape(-1, 2)
        if len(own):
            at_edge = np.clip(own, *np.array([p.x_range, p.y_range]).T)
            ax.scatter(at_edge[:, 0], at_edge[:, 1], label=status, zorder=4, clip_on=False, **style)
    for q in p.points:
        if q.baseline:
            ring: dict[str, Any] = {"facecolors": "none", "edgecolors": INK, "linewidths": 1.1, "linestyles": "dotted"}
            ax.scatter([q.x], [q.y], s=130, label="float baseline", zorder=5, **ring)


def _draw_window(ax: Axes, p: Plane) -> None:
    if p.max_x is None and p.min_y is None:
        return
    right = min(p.x_range[1], p.max_x) if p.max_x is not None else p.x_range[1]
    low = max(p.y_range[0], p.min_y) if p.min_y is not None else p.y_range[0]
    box = (ax.get_xlim()[0], low)
    from matplotlib.patches import Rectangle

    size = (max(0.0, right - box[0]), p.y_range[1] - low)
    ax.add_patch(Rectangle(box, *size, color=ACCENT, alpha=0.06, linewidth=0, zorder=0, label="within budget"))
    if p.max_x is not None and p.max_x <= p.x_range[1]:
        ax.axvline(p.max_x, color=INK, linewidth=0.8, linestyle=(0, (4, 4)), alpha=0.6)
    if p.min_y is not None:
        ax.axhline(p.min_y, color=INK, linewidth=0.8, linestyle=(0, (4, 4)), alpha=0.6)


def _label_front(figure: Figure, ax: Axes, p: Plane) -> None:
    """Write the front's labels beside their points, where they cover neither each other nor a point."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    renderer: Any = canvas.get_renderer()
    members = sorted((q for q in p.points if q.rank), key=lambda q: (not q.chosen, q.rank))
    texts = [
        ax.text(0, 0, f"{q.rank}  {short(q.label, 34)}", fontsize=7, color=INK, parse_math=False, transform=None)
        for q in members
    ]
    for text, q in zip(texts, members, strict=True):
        text.set_fontweight("bold" if q.chosen else "normal")
    sizes = [(e.width, e.height) for e in (t.get_window_extent(renderer) for t in texts)]
    corners = np.array([p.x_range, p.y_range]).T

    def at(points: list[tuple[float, float]]) -> NDArray[np.float64]:
        pixels: NDArray[np.float64] = ax.transData.transform(np.clip(np.array(points).reshape(-1, 2), *corners))
        return pixels

    obstacles = at([(q.x, q.y) for q in p.points])
    area = ax.get_window_extent(renderer)
    bounds = (area.x0, area.y0, area.x1, area.y1)
    spots = place_labels(at([(q.x, q.y) for q in members]), sizes, obstacles, bounds)
    for text, spot in zip(texts, spots, strict=True):
        if spot is None:
            text.remove()  # the page has all of them
        else:
            text.set_position(spot)


def place_labels(
    anchors: NDArray[np.float64],
    sizes: Sequence[tuple[float, float]],
    obstacles: NDArray[np.float64],
    bounds: tuple[float, float, float, float],
    gap: float = 9.0,
) -> list[tuple[float, float] | None]:
    """Give each label the first free place around its anchor, in order of importance; ``None`` where all are taken.

    ``anchors`` ``(n, 2)``, ``obstacles`` ``(m, 2)`` and the result (lower left corners) are pixels; ``sizes`` are the
    labels' widths and heights; ``bounds`` are left, bottom, right, top.
    """
    taken: list[tuple[float, float, float, float]] = []
    spots: list[tuple[float, float] | None] = []
    for (x, y), (w, h) in zip(anchors, sizes, strict=True):
        spot = None
        for away in (1.0, 2.2, 3.6):
            d = gap * away
            places = ((x + d, y - h - d / 2), (x - w - d, y + d / 2), (x + d, y + d / 2), (x - w - d, y - h - d / 2))
            spot = next((s for s in places if _free((*s, s[0] + w, s[1] + h), taken, obstacles, bounds)), None)
            if spot is not None:
                taken.append((spot[0] - 1, spot[1] - 1, spot[0] + w + 1, spot[1] + h + 1))
                break
        spots.append(spot)
    return spots


def _free(
    box: tuple[float, float, float, float],
    taken: Sequence[tuple[float, float, float, float]],
    obstacles: NDArray[np.float64],
    bounds: tuple[float, float, float, float],
) -> bool:
    left, bottom, right, top = box
    if left < bounds[0] or bottom < bounds[1] or right > bounds[2] or top > bounds[3]:
        return False
    if any(left < b[2] and right > b[0] and bottom < b[3] and top > b[1] for b in taken):
        return False
    x, y, margin = obstacles[:, 0], obstacles[:, 1], 5
    covered = (x > left - margin) & (x < right + margin) & (y > bottom - margin) & (y < top + margin)
    return not bool(covered.any())


# --- training, confusion, predictions --------------------------------------------------------------------------------
def _results(data: ReportData) -> bytes:
    figure, axes = plain_figure(10, 3.8, 2)
    for ax, attribute, factor, title in zip(
        axes, ("loss", "score"), (1, 100), ("training loss", "validation score, %"), strict=True
    ):
        for n, curve in enumerate(data.curves):
            pairs = [
                (e, factor * v) for e, v in zip(curve.epochs, getattr(curve, attribute), strict=True) if v is not None
            ]
            if pairs:
                marker = "o" if len(pairs) == 1 else ""
                label = short(curve.label, 40) if n < 12 else "_nolegend_"
                ax.plot(*zip(*pairs, strict=True), color=SERIES[n % 6], linewidth=1.3, marker=marker, label=label)
        ax.set_xlabel("epoch", color=MUTED, fontsize=9)
        ax.set_title(title, loc="left", fontsize=9, color=INK)
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        shown = figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=7)
        for text in shown.get_texts():
            text.set_parse_math(False)
    return encode(figure)


def _confusion_source(data: ReportData) -> Metrics | None:
    record = judge(data).record or data.record(data.baseline)
    metrics = None if record is None else shown_metrics(record)
    return metrics if metrics is not None and metrics.confusion else None


def _confusion(metrics: Metrics, data: ReportData) -> bytes:
    counts = np.array(metrics.confusion, dtype=np.float64)
    n = len(counts)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [short(name, 24) for name in _class_names(metrics, n)]
    side = float(np.clip(2.2 + 0.5 * n, 4.0, 14.0))
    figure, (ax,) = plain_figure(side + 0.8, side)
    ax.grid(visible=False)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if n <= MAX_CONFUSION_CLASSES:
        ax.set_xticks(range(n), names, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
        ax.set_yticks(range(n), names, parse_math=False)
    if n <= 20:
        for row, column in np.ndindex(n, n):
            if share[row, column] >= 0.005:
                colour = "white" if share[row, column] > 0.55 else INK
                value = f"{100 * share[row, column]:.1f}"
                ax.text(column, row, value, ha="center", va="center", fontsize=7, color=colour)
    ax.set_xlabel("prediction", color=MUTED, fontsize=9)
    ax.set_ylabel("truth", color=MUTED, fontsize=9)
    ax.set_title("per cent of each true class", loc="left", fontsize=9, color=INK)
    return encode(figure)


def _class_names(metrics: Metrics, n: int) -> list[str]:
    named: Any = next(iter(metrics.per_class.values()), {})
    return list(named) if len(named) == n else [str(k) for k in range(n)]


def _predictions(data: ReportData, side: int = 256, gap: int = 6, limit: int = 8) -> bytes:
    from PIL import Image, ImageDraw

    rows = []
    for preview in data.previews[:limit]:
        opened = [(name, _open(panel)) for name, panel in list(preview.panels.items())[:MAX_PANELS]]
        pictures = [(name, picture) for name, picture in opened if picture is not None]
        if pictures:
            rows.append((preview, pictures))
    if not rows:
        return b""
    head = 18
    width = max(len(pictures) for _, pictures in rows) * (side + gap) + gap
    sheet = Image.new("RGB", (width, len(rows) * (side + head + gap) + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (preview, pictures) in enumerate(rows):
        top = gap + row * (side + head + gap)
        for column, (name, picture) in enumerate(pictures):
            picture.thumbnail((side, side))
            left = gap + column * (side + gap)
            sheet.paste(picture, (left, top + head))
            caption = short(name, 40) if column else f"{short(name, 20)}  {short(preview.sample, 28)}"
            pen.text((left, top + 2), caption.encode("latin-1", "replace").decode("latin-1"), fill="#59606c")
    out = io.BytesIO()
    sheet.save(out, "JPEG", quality=88)
    return out.getvalue()


def _open(data: bytes) -> Any:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            return image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
