"""A progress bar with a table above it that grows by a row for each epoch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from hotloop.callbacks.callback import Callback, TrainState

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ProgressBar"]

_GAP = 2


class ProgressBar(Callback):
    """Shows the run as a bar and its finished epochs as rows of a table.

    Where the output is not a terminal, only the table is printed, as plain lines.

    Args:
        console: Where to print; the standard output by default.
        refresh_seconds: Least time between two updates of the bar. The loss is read from
            its device no more often than that.
    """

    def __init__(self, console: Console | None = None, refresh_seconds: float = 0.1) -> None:
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

    def on_train_begin(self, state: TrainState) -> None:
        """Show the bar."""
        self._columns = []
        steps = state.steps_per_epoch
        total = None if steps is None else steps * state.epochs
        self._progress.reset(self._task, total=total, loss="")
        self._progress.start()

    def on_batch_end(self, state: TrainState) -> None:
        """Move the bar, if the last time is long enough ago."""
        now = time.monotonic()
        if self._progress.disable or now - self._shown_at < self._refresh_seconds:
            return
        self._shown_at = now
        loss = "" if state.loss is None else f"{float(state.loss):.4f}"
        self._progress.update(
            self._task,
            description=f"epoch {state.epoch + 1}/{state.epochs}",
            completed=state.step,
            loss=loss,
            refresh=True,
        )

    def on_epoch_end(self, state: TrainState) -> None:
        """Print the epoch's row, and the heading before the first one."""
        if not self._columns:
            self._columns = list(state.metrics)
            self._print_row("epoch", self._columns)
        values = [f"{state.metrics[name]:.4f}" for name in self._columns]
        self._print_row(f"{state.epoch + 1}/{state.epochs}", values)

    def on_train_end(self, state: TrainState) -> None:
        """Remove the bar; the table stays."""
        self._progress.stop()

    def _print_row(self, first: str, cells: list[str]) -> None:
        widths = [max(len(name), 6) for name in self._columns]
        padded = [f"{cell:>{width}}" for cell, width in zip(cells, widths)]
        self._console.print((" " * _GAP).join([f"{first:<8}", *padded]), soft_wrap=True)
