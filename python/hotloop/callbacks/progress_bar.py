"""A progress bar with a table above it that grows by a row for each epoch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from hotloop.callbacks.callback import Callback, TrainState
from hotloop.callbacks.rank import is_first_rank

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ProgressBar"]

_GAP = 2


class ProgressBar(Callback):
    """Shows the run as a bar and its finished epochs as rows of a table.

    Where the output is not a terminal, only the table is printed, as plain lines; of a
    distributed run only rank 0 prints.

    Args:
        console: Where to print; the standard output by default.
        refresh_seconds: Least time between two updates of the bar. Its loss is that of the
            last logging window.
    """

    step_cadence = None

    def __init__(self, console: Console | None = None, refresh_seconds: float = 0.25) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._console = console or Console(highlight=False)
        self._refresh_seconds = refresh_seconds
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
            auto_refresh=False,
        )
        self._task = self._progress.add_task("", loss="")
        self._shown_at = 0.0
        self._columns: list[str] = []
        self._loss = ""
        self._is_validated = False
        self._is_first = True

    def on_train_begin(self, state: TrainState) -> None:
        """Show the bar."""
        self._is_first = is_first_rank()
        self._progress.disable = not (self._is_first and self._console.is_terminal)
        self._columns = []
        self._loss = ""
        self._progress.reset(self._task, total=state.steps, completed=state.step, loss="")
        self._progress.start()

    def on_step_end(self, state: TrainState) -> None:
        """Move the bar, if the last time is long enough ago."""
        if self._progress.disable:
            return
        if state.window is not None:
            loss = state.window.get("loss")
            self._loss = "" if loss is None else f"{loss:.4f}"
        now = time.monotonic()
        if now - self._shown_at < self._refresh_seconds:
            return
        self._shown_at = now
        of = "" if state.epochs is None else f"/{state.epochs}"
        self._progress.update(
            self._task,
            description=f"epoch {state.epoch + 1}{of}",
            completed=state.step,
            loss=self._loss,
            refresh=True,
        )

    def on_validation_end(self, state: TrainState) -> None:
        """Note that the epoch has values of a validation."""
        self._is_validated = True

    def on_epoch_end(self, state: TrainState) -> None:
        """Print the epoch's row, and a heading where the columns are new."""
        columns = sorted(state.metrics, key=_rank)
        if columns != self._columns:
            self._columns = columns
            self._print_row("epoch", columns)
        values = [
            "" if name.startswith("val_") and not self._is_validated else f"{value:.4f}"
            for name, value in ((name, state.metrics[name]) for name in columns)
        ]
        self._is_validated = False
        of = "" if state.epochs is None else f"/{state.epochs}"
        self._print_row(f"{state.epoch + 1}{of}", values)

    def on_train_end(self, state: TrainState) -> None:
        """Remove the bar; the table stays."""
        self._progress.stop()

    def _print_row(self, first: str, cells: list[str]) -> None:
        if not self._is_first:
            return
        widths = [max(len(name), 6) for name in self._columns]
        padded = [f"{cell:>{width}}" for cell, width in zip(cells, widths)]
        self._console.print((" " * _GAP).join([f"{first:<8}", *padded]), soft_wrap=True)


def _rank(name: str) -> int:
    # Training first, then validation, then the rest, each in its own order.
    return 0 if name.startswith("train_") else 1 if name.startswith("val_") else 2
