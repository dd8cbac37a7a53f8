"""Pictures of matrices and curves: what is drawn, and what is written on it."""

from __future__ import annotations

import builtins
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from hotloop.metrics import ROC, CalibrationError, PrecisionRecallCurve
from hotloop.metrics.plot import (
    plot_calibration,
    plot_confusion_matrix,
    plot_roc,
)

matplotlib = pytest.importorskip("matplotlib")


@pytest.fixture(autouse=True)
def _closed_figures() -> Iterator[None]:
    matplotlib.use("Agg")
    yield
    from matplotlib import pyplot

    pyplot.close("all")


def matrix(classes: int, scale: int = 10) -> torch.Tensor:
    return scale * torch.eye(classes, dtype=torch.int64) + torch.arange(classes)


def texts(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.texts]


def tick_labels(axis: Any) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def test_cells_have_their_numbers() -> None:
    ax = plot_confusion_matrix(matrix(3), ["ant", "bee", "cow"])
    assert texts(ax) == ["10", "1", "2", "0", "11", "2", "0", "1", "12"]
    assert [text.get_color() for text in ax.texts][:2] == ["white", "black"]
    assert tick_labels(ax.xaxis) == tick_labels(ax.yaxis) == ["ant", "bee", "cow"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted class", "true class")
    (image,) = ax.images
    assert image.get_array().tolist() == matrix(3).tolist()
    ax.figure.canvas.draw()


def test_fractions_have_two_digits() -> None:
    fractions = matrix(2).double() / matrix(2).sum(1, keepdim=True)
    # A class without samples has no fractions.
    fractions[1] = torch.nan
    assert texts(plot_confusion_matrix(fractions)) == ["0.91", "0.09", "0.00", "0.00"]


def test_weighted_counts_have_a_digit_where_they_need_it() -> None:
    assert texts(plot_confusion_matrix(torch.tensor([[2.5, 1.0], [0.0, 4.0]]))) == [
        "2.5",
        "1",
        "0",
        "4",
    ]


def test_large_counts_are_short_where_there_is_little_room() -> None:
    from matplotlib import pyplot

    assert "1000000" in texts(plot_confusion_matrix(matrix(2, 1_000_000)))
    _, ax = pyplot.subplots(figsize=(3, 3))
    plot_confusion_matrix(matrix(10, 1_234_567), ax=ax)
    assert texts(ax)[0] == "1.23M"
    _, ax = pyplot.subplots(figsize=(3, 3))
    plot_confusion_matrix(matrix(10, 45_678), ax=ax)
    assert texts(ax)[0] == "46k"


@pytest.mark.parametrize("classes", [1, 2, 10, 11, 20, 21, 100, 1000])
def test_any_number_of_classes_can_be_read(classes: int) -> None:
    ax = plot_confusion_matrix(matrix(classes))
    assert bool(texts(ax)) == (classes <= 20)
    ax.figure.canvas.draw()
    boxes = [label.get_window_extent() for label in ax.get_yticklabels() if label.get_text()]
    heights = sorted((box.y0, box.y1) for box in boxes)
    assert all(low[1] <= high[0] + 1 for low, high in itertools.pairwise(heights))
    boxes = [label.get_window_extent() for label in ax.get_xticklabels() if label.get_text()]
    widths = sorted((box.x0, box.x1) for box in boxes)
    assert all(left[1] <= right[0] + 1 for left, right in itertools.pairwise(widths))
    side = ax.get_window_extent().width / classes
    for text in ax.texts:
        assert text.get_window_extent().width <= side


@pytest.mark.parametrize("shape", [(2, 3), (2,), (2, 2, 2)])
def test_a_matrix_is_square(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"matrix must have shape \(C, C\), got \(2"):
        plot_confusion_matrix(torch.zeros(shape))


def test_names_are_as_many_as_classes() -> None:
    with pytest.raises(ValueError, match="labels must name 2 classes, got 1"):
        plot_confusion_matrix(matrix(2), ["one"])
    rates = torch.tensor([0.0, 1.0])
    with pytest.raises(ValueError, match="labels must name 1 curves, got 2"):
        plot_roc(rates, rates, ["one", "two"])


def scores(classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    target = torch.arange(200) % classes
    return torch.randn(200, classes) + torch.eye(classes)[target], target


@pytest.mark.parametrize("kind", [ROC, PrecisionRecallCurve])
@pytest.mark.parametrize("thresholds", [None, 21])
@pytest.mark.parametrize("classes", [3, 30])
def test_curves_of_classes(kind: Any, thresholds: int | None, classes: int) -> None:
    metric = kind(thresholds=thresholds, logits=True)
    metric.update(*scores(classes))
    ax = metric.plot()
    curves = [line for line in ax.lines if not line.get_label().startswith("_")]
    assert len(curves) == classes
    first, second = metric.compute()[:2]
    x, y = (first, second) if kind is ROC else (second, first)
    for line, own_x, own_y in zip(curves, x, y):
        assert line.get_xdata().tolist() == own_x.tolist()
        assert torch.tensor(line.get_ydata()).allclose(own_y, equal_nan=True)
    named = ax.get_legend()
    if classes > 10:
        assert named is None
        assert len({line.get_color() for line in curves}) == classes
    else:
        assert [text.get_text() for text in named.get_texts()] == ["class 0", "class 1", "class 2"]
    ax.figure.canvas.draw()


@pytest.mark.parametrize("kind", [ROC, PrecisionRecallCurve])
def test_one_curve_needs_no_name(kind: Any) -> None:
    from matplotlib import pyplot

    metric = kind("binary", logits=True)
    metric.update(torch.randn(50), torch.arange(50) % 2)
    _, ax = pyplot.subplots()
    assert metric.plot(ax=ax) is ax
    assert ax.get_legend() is None
    named = metric.plot(["model"])
    assert [text.get_text() for text in named.get_legend().get_texts()] == ["model"]


def test_calibration() -> None:
    metric = CalibrationError("binary", n_bins=4)
    metric.update(torch.tensor([0.125, 0.375, 0.375, 1.0]), torch.tensor([0, 1, 0, 1]))
    ax = metric.plot()
    (line,) = [line for line in ax.lines if line.get_label() == "accuracy"]
    assert line.get_xdata().tolist() == [0.125, 0.375, 1.0]
    assert line.get_ydata().tolist() == [0.0, 0.5, 1.0]
    ax.figure.canvas.draw()
    assert plot_calibration(*metric._bins(), ax=ax) is ax


def test_matplotlib_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"plots need matplotlib; run `pip install 'hotloop\[plo"):
        plot_confusion_matrix(matrix(2))
