"""TensorBoard's event files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hotloop.monitoring.extra import import_extra
from hotloop.monitoring.json_value import json_value
from hotloop.monitoring.redaction import redact
from hotloop.monitoring.tracker import check_status

__all__ = ["TensorBoardTracker"]


class TensorBoardTracker:
    """Writes scalars with `torch.utils.tensorboard.SummaryWriter`, in float32.

    The configuration, the run's name, files and the status are texts with the tags "config",
    "run_id", "artifact" and "status". Each `start` makes a new event file in the directory, and
    TensorBoard shows all of them as one run: steps that a resumed run repeats are there twice.

    Args:
        directory: Where the event files go; it is made if it does not exist.

    Raises:
        ImportError: If tensorboard is not installed, the extra `tensorboard`.
    """

    def __init__(self, directory: str | Path) -> None:
        self._module = import_extra("torch.utils.tensorboard", "tensorboard", "TensorBoardTracker")
        self._directory = str(directory)
        self._writer: Any = None
        self._step = 0

    def start(self, config: Mapping[str, Any], run_id: str | None = None) -> None:
        """Make an event file.

        Args:
            config: The configuration of the run.
            run_id: The name of the run, which is only written down.

        Raises:
            RuntimeError: If the last run was not finished.
        """
        if self._writer is not None:
            raise RuntimeError("TensorBoardTracker is already started; call finish first")
        self._writer = self._module.SummaryWriter(self._directory)
        self._step = 0
        text = json.dumps(json_value(redact(config)), indent=4)
        # Markdown shows lines with four spaces before them as they are.
        self._writer.add_text("config", "\n".join(f"    {line}" for line in text.splitlines()))
        self._writer.add_text("run_id", str(run_id))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write scalars.

        Args:
            values: The values by tag; a slash groups tags.
            step: Their step.

        Raises:
            RuntimeError: If no run was started.
        """
        writer = self._started()
        self._step = step
        for name, value in values.items():
            writer.add_scalar(name, float(value), step)

    def artifact(self, path: str | Path) -> None:
        """Write the path of a file at the last step; the file itself stays where it is.

        Args:
            path: The file.

        Raises:
            RuntimeError: If no run was started.
        """
        self._started().add_text("artifact", str(path), self._step)

    def finish(self, status: str) -> None:
        """Write the status and close the file.

        Args:
            status: One of `STATUSES`.

        Raises:
            RuntimeError: If no run was started.
            ValueError: If the status is none of them.
        """
        check_status(status)
        writer = self._started()
        self._writer = None
        writer.add_text("status", status, self._step)
        writer.close()

    def _started(self) -> Any:
        if self._writer is None:
            raise RuntimeError("TensorBoardTracker is not started; call start first")
        return self._writer
