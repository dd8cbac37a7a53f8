"""Draws what a run measures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hotloop.callbacks.callback import Callback, TrainState
from hotloop.callbacks.rank import is_first_rank

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PlotCurves"]

_TIMES = ("seconds", "samples_per_second")
#: Up to this many points each is marked: a line of one point cannot be seen.
_MARKED = 20


class PlotCurves(Callback):
    """Writes a picture of the curves after each epoch and each validation, on rank 0.

    Losses share the axes on top, learning rates those below; what is left has axes for itself,
    together with its values in training and validation. The picture takes the place of the
    last one at once, so that a viewer never sees half of it.

    Args:
        path: Where to write; the suffix says what: .png, .svg or .pdf.
        names: The values of logging windows, epochs and validations to draw; None for all but
            "seconds" and "samples_per_second".

    Attributes:
        points: The steps and the values of each curve by name.

    Raises:
        ValueError: If the suffix is another, or names are empty.
        ImportError: If matplotlib is not installed.
    """

    step_cadence = None

    def __init__(self, path: str | Path, names: Iterable[str] | None = None) -> None:
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError(
                "PlotCurves needs matplotlib; run `pip install 'hotloop[plots]'`"
            ) from error
        self._figure = Figure
        self._path = Path(path)
        if self._path.suffix not in (".png", ".svg", ".pdf"):
            raise ValueError(f"path must end in .png, .svg or .pdf, got {str(path)!r}")
        self._names = None if names is None else tuple(names)
        if self._names == ():
            raise ValueError("names must hold a name, or be None for all; got none")
        self.points: dict[str, tuple[list[int], list[float]]] = {}

    @property
    def state_key(self) -> str:
        """The name of the class and of the file."""
        return f"PlotCurves({self._path.name})"

    def on_train_begin(self, state: TrainState) -> None:
        """Forget the points of another run, if this one begins."""
        if state.step == 0:
            self.points = {}

    def on_step_end(self, state: TrainState) -> None:
        """Take the logging window, if one ends here."""
        if state.window is not None:
            self._take(state.window, state.step)

    def on_validation_end(self, state: TrainState) -> None:
        """Take the values of the validation, and draw."""
        values = {name: v for name, v in state.metrics.items() if name.startswith("val_")}
        self._take(values, state.step)
        self._write()

    def on_epoch_end(self, state: TrainState) -> None:
        """Take the values of the epoch, but for those of its validation, and draw."""
        values = {name: v for name, v in state.metrics.items() if not name.startswith("val_")}
        self._take(values, state.step)
        self._write()

    def state_dict(self) -> dict[str, Any]:
        """Return the points."""
        return {
            "points": {
                name: [list(steps), list(values)] for name, (steps, values) in self.points.items()
            }
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.points = {
            name: (list(steps), list(values)) for name, (steps, values) in state["points"].items()
        }

    def draw(self) -> Figure:
        """Return the picture of the points up to now.

        It belongs to nobody else: pyplot does not know it.
        """
        groups: dict[str, list[str]] = {}
        for name in self.points:
            groups.setdefault(_group(name), []).append(name)
        order = sorted(groups, key=lambda group: ({"loss": 0, "lr": 1}.get(group, 2), group))
        height = 1.2 + sum(3.0 if group == "loss" else 1.8 for group in order)
        figure = self._figure(figsize=(7, height), layout="constrained")
        if not order:
            return figure
        ratios = [3.0 if group == "loss" else 1.8 for group in order]
        all_axes = figure.subplots(
            len(order), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": ratios}
        )
        for group, axes in zip(order, all_axes[:, 0]):
            for name in sorted(groups[group]):
                steps, values = self.points[name]
                marker = "o" if len(steps) <= _MARKED else None
                axes.plot(steps, values, label=name, marker=marker, markersize=3, linewidth=1.3)
            axes.set_ylabel({"lr": "learning rate"}.get(group, group.replace("_", " ")))
            axes.grid(alpha=0.3)
            if len(groups[group]) > 1 or groups[group] != [group]:
                axes.legend(frameon=False)
        all_axes[-1, 0].set_xlabel("step")
        return figure

    def _take(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            if name not in self._names if self._names is not None else name in _TIMES:
                continue
            steps, drawn = self.points.setdefault(name, ([], []))
            steps.append(step)
            drawn.append(value)

    def _write(self) -> None:
        if not is_first_rank():
            return
        # In the same folder: only there one rename can put it in place.
        part = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        try:
            self.draw().savefig(part, format=self._path.suffix[1:], dpi=120)
            os.replace(part, self._path)
        finally:
            part.unlink(missing_ok=True)


def _group(name: str) -> str:
    """Return what a value shares its axes with."""
    if "loss" in name:
        return "loss"
    if name == "lr" or name.startswith("lr/"):
        return "lr"
    return name.removeprefix("train_").removeprefix("val_")
