"""Pictures of confusion matrices and of curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_calibration", "plot_confusion_matrix", "plot_precision_recall", "plot_roc"]

#: Up to so many classes each cell has its number written in it.
_WRITTEN = 20
#: Up to so many curves each has a colour of its own in a legend.
_NAMED = 10
#: Points of the smallest writing in cells, and of a tick's label for many classes.
_SMALLEST, _SMALL = 4.0, 8.0
#: The width and the height of a character, by its size.
_WIDTH, _HEIGHT = 0.62, 1.2


def plot_confusion_matrix(
    matrix: Tensor, labels: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """Draw a confusion matrix: a row for each true class, a column for each predicted one.

    Args:
        matrix: Counts or fractions, shape (C, C). Up to 20 classes have them written in the cells.
        labels: The names of the classes; their indices by default.
        ax: Where to draw; a new figure by default.

    Returns:
        The axes.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the shape is another, or there are not as many labels as classes.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"matrix must have shape (C, C), got {tuple(matrix.shape)}")
    classes = len(matrix)
    if labels is not None and len(labels) != classes:
        raise ValueError(f"labels must name {classes} classes, got {len(labels)}")
    side = min(max(3.5, 1.8 + 0.42 * classes), 10.0)
    ax = _axes(ax, (side + 0.8, side))
    values = matrix.detach().cpu().double().nan_to_num()
    image = ax.imshow(values.numpy(), cmap="Blues", vmin=0)
    ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.04)
    names = [str(i) if labels is None else labels[i] for i in range(classes)]
    _set_ticks(ax, names)
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class")
    if classes <= _WRITTEN:
        _write_cells(ax, values, is_count=not matrix.is_floating_point())
    return ax


def _points(ax: Axes) -> float:
    """Return the width of axes in points."""
    return float(ax.get_window_extent().width / ax.figure.dpi * 72)


def _set_ticks(ax: Axes, names: Sequence[str]) -> None:
    """Name as many classes as have room for it."""
    size = 10.0 if len(names) <= _NAMED else _SMALL
    every = math.ceil(len(names) * size * _HEIGHT / _points(ax))
    ticks = range(0, len(names), every)
    shown = [names[i] for i in ticks]
    room = every * _points(ax) / len(names)
    is_wide = max(map(len, shown)) * size * _WIDTH > 0.9 * room
    ax.set_xticks(ticks, shown, rotation=90 if is_wide else 0)
    ax.set_yticks(ticks, shown)
    ax.tick_params(labelsize=size)


def _write_cells(ax: Axes, values: Tensor, is_count: bool) -> None:
    cell = _points(ax) / len(values)
    rows = values.tolist()
    highest = max(map(max, rows))
    is_count = is_count or highest > 1
    for write in (_full, _short) if is_count else (_fraction,):
        texts = [[write(value) for value in row] for row in rows]
        longest = max(len(text) for row in texts for text in row)
        size = min(10.0, 0.85 * cell / (_WIDTH * longest))
        if size >= _SMALL:
            break
    if size < _SMALLEST:
        return
    for y, row in enumerate(rows):
        for x, value in enumerate(row):
            color = "white" if value > highest / 2 else "black"
            ax.text(x, y, texts[y][x], ha="center", va="center", color=color, fontsize=size)


def _fraction(value: float) -> str:
    return f"{value:.2f}"


def _full(value: float) -> str:
    # Weighted counts may be no integers.
    return f"{value:.0f}" if value == round(value) else f"{value:.1f}"


def _short(value: float) -> str:
    if value < 9_999.5:
        return f"{value:.0f}"
    return f"{value / 1000:.0f}k" if value < 999_500 else f"{value / 1_000_000:.3g}M"


def plot_roc(
    fpr: Tensor | Sequence[Tensor],
    tpr: Tensor | Sequence[Tensor],
    labels: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw ROC curves and the line of chance.

    Args:
        fpr: The false positive rates: shape (P,) for one curve, or an item for each of several.
        tpr: The true positive rates, likewise.
        labels: The names of several curves; "class 0" and so on by default.
        ax: Where to draw; a new figure by default.

    Returns:
        The axes. Up to 10 curves are named, more have colours by index.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there are not as many labels as curves.
    """
    ax = _axes(ax, (5.0, 4.5))
    ax.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1)
    _draw_curves(ax, fpr, tpr, labels, "default", "lower right")
    ax.set_xlabel("false positive rate")
    ax.set_ylabel("true positive rate")
    return ax


def plot_precision_recall(
    precision: Tensor | Sequence[Tensor],
    recall: Tensor | Sequence[Tensor],
    labels: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw precision-recall curves as steps, which is how average precision adds them up.

    Args:
        precision: The precisions: shape (P,) for one curve, or an item for each of several.
        recall: The recalls, descending, likewise.
        labels: The names of several curves; "class 0" and so on by default.
        ax: Where to draw; a new figure by default.

    Returns:
        The axes. Up to 10 curves are named, more have colours by index.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there are not as many labels as curves.
    """
    ax = _axes(ax, (5.0, 4.5))
    _draw_curves(ax, recall, precision, labels, "steps-post", "lower left")
    ax.set_xlabel("recall")
    ax.set_ylabel("precision")
    return ax


def plot_calibration(
    confidence: Tensor, accuracy: Tensor, share: Tensor, ax: Axes | None = None
) -> Axes:
    """Draw the accuracy of bins by their mean confidence, and how many rows they have.

    Args:
        confidence: The mean confidence of each bin that has rows, shape (B,).
        accuracy: Its accuracy, shape (B,).
        share: Its share of all rows, shape (B,).
        ax: Where to draw; a new figure by default.

    Returns:
        The axes.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    ax = _axes(ax, (5.0, 4.5))
    ax.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="calibrated")
    ax.vlines(confidence, 0, share, color="C1", linewidth=6, alpha=0.5, label="share of rows")
    ax.plot(confidence, accuracy, marker="o", markersize=4, label="accuracy")
    ax.set_xlabel("mean confidence")
    ax.set_ylabel("accuracy")
    _frame(ax)
    ax.legend(frameon=False, loc="upper left")
    return ax


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("plots need matplotlib; run `pip install 'hotloop[plots]'`") from error
    return pyplot.subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def _several(curves: Tensor | Sequence[Tensor]) -> list[Tensor]:
    if isinstance(curves, Tensor) and curves.ndim == 1:
        return [curves]
    return list(curves)


def _frame(ax: Axes) -> None:
    ax.set_xlim(-0.02, 1.02)
    ax.set_ylim(-0.02, 1.02)
    ax.set_aspect("equal")
    ax.grid(alpha=0.3)


def _draw_curves(
    ax: Axes,
    x: Tensor | Sequence[Tensor],
    y: Tensor | Sequence[Tensor],
    labels: Sequence[str] | None,
    style: Any,
    corner: Any,
) -> None:
    abscissas, ordinates = _several(x), _several(y)
    count = len(abscissas)
    if labels is not None and len(labels) != count:
        raise ValueError(f"labels must name {count} curves, got {len(labels)}")
    is_named = count <= _NAMED
    from matplotlib import colormaps

    colors = colormaps["tab10" if is_named else "viridis"]
    for index in range(count):
        ax.plot(
            abscissas[index],
            ordinates[index],
            color=colors(index if is_named else index / (count - 1)),
            drawstyle=style,
            linewidth=1.5 if is_named else 0.8,
            label=f"class {index}" if labels is None else labels[index],
        )
    _frame(ax)
    if is_named and (count > 1 or labels is not None):
        ax.legend(frameon=False, loc=corner, fontsize=8)
    elif not is_named:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        scale = ScalarMappable(Normalize(0, count - 1), cmap="viridis")
        ax.figure.colorbar(scale, ax=ax, label="class", fraction=0.046, pad=0.04)
