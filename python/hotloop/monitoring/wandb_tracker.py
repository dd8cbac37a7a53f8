"""Runs of Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hotloop.monitoring.extra import import_extra
from hotloop.monitoring.json_value import json_value
from hotloop.monitoring.redaction import redact
from hotloop.monitoring.tracker import check_status

__all__ = ["WandbTracker"]

_MODES = ("offline", "online", "disabled")


class WandbTracker:
    """Writes a run of wandb, by default to files that `wandb sync` uploads later.

    It takes no API key: wandb reads its own from the environment or from its login.

    Args:
        project: The project of the run.
        mode: "offline", "online" or "disabled", as `wandb.init` defines them.
        directory: Where wandb makes its folder; the current one by default.

    Raises:
        ImportError: If wandb is not installed, the extra `wandb`.
        ValueError: If the mode is another one.
    """

    def __init__(
        self, project: str, mode: str = "offline", directory: str | Path | None = None
    ) -> None:
        if mode not in _MODES:
            raise ValueError(f"mode must be one of {', '.join(map(repr, _MODES))}, got {mode!r}")
        self._wandb = import_extra("wandb", "wandb", "WandbTracker")
        self._project = project
        self._mode = mode
        self._directory = None if directory is None else str(directory)
        self._run: Any = None

    def start(self, config: Mapping[str, Any], run_id: str | None = None) -> None:
        """Begin a run; online, a run of the same id is gone on with.

        Offline, wandb cannot resume: the values of both parts have the same id, and meet when
        they are uploaded.

        Args:
            config: The configuration of the run.
            run_id: The run's id; None lets wandb choose one.

        Raises:
            RuntimeError: If the last run was not finished.
        """
        if self._run is not None:
            raise RuntimeError("WandbTracker is already started; call finish first")
        is_resumable = run_id is not None and self._mode == "online"
        self._run = self._wandb.init(
            project=self._project,
            id=run_id,
            config=json_value(redact(config)),
            mode=self._mode,
            dir=self._directory,
            resume="allow" if is_resumable else None,
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write values.

        Args:
            values: The values by name.
            step: Their step; wandb itself drops values below the last one, with a warning.

        Raises:
            RuntimeError: If no run was started.
        """
        self._started().log({name: float(value) for name, value in values.items()}, step=step)

    def artifact(self, path: str | Path) -> None:
        """Copy a file or a folder into the run, as an artifact of wandb.

        Args:
            path: The file.

        Raises:
            RuntimeError: If no run was started.
        """
        self._started().log_artifact(str(path))

    def finish(self, status: str) -> None:
        """Write the status into the summary and end the run.

        The exit code is 0 for "finished" and "stopped", else 1, which wandb shows as failed.

        Args:
            status: One of `STATUSES`.

        Raises:
            RuntimeError: If no run was started.
            ValueError: If the status is none of them.
        """
        check_status(status)
        run = self._started()
        self._run = None
        run.summary["status"] = status
        run.finish(exit_code=0 if status in ("finished", "stopped") else 1)

    def _started(self) -> Any:
        if self._run is None:
            raise RuntimeError("WandbTracker is not started; call start first")
        return self._run
