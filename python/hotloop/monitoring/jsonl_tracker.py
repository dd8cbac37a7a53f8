"""A file with a JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from hotloop.monitoring.json_value import json_value
from hotloop.monitoring.redaction import redact
from hotloop.monitoring.step_order import StepOrder
from hotloop.monitoring.tracker import check_status

__all__ = ["JsonlTracker"]


class JsonlTracker:
    r"""Writes each call as a line of JSON, and flushes it to the operating system.

    The first line is `{"run_id": …, "config": {…}}`, with the configuration as `json_value`
    makes it. Values are `{"step": 10, "loss": 0.5}`, files `{"artifact": "…"}`, and the end is
    `{"status": "finished"}`. Values that are not finite are the strings "nan", "inf" and "-inf",
    so that the file is JSON as RFC 8259 defines it.

    A file of the same `run_id` is gone on with: a last line without "\n" is cut off, the
    first line stays, and values of steps up to the last one in the file are not written again.

    Args:
        path: The file; its folder is made if it does not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._file: IO[str] | None = None
        self._order = StepOrder(None)

    def start(self, config: Mapping[str, Any], run_id: str | None = None) -> None:
        """Make the file, or open that of the same run.

        Args:
            config: The configuration of the run.
            run_id: The name of the run; None for one that is never resumed.

        Raises:
            RuntimeError: If the last run was not finished.
            FileExistsError: If the file is of another run, or of one without a name.
            ValueError: If a line of the file is not what this class writes.
        """
        if self._file is not None:
            raise RuntimeError("JsonlTracker is already started; call finish first")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        is_resumed = self._path.exists() and self._path.stat().st_size > 0
        self._order = StepOrder(_resume(self._path, run_id) if is_resumed else None)
        # Of names of files that are not UTF-8, it writes the escapes that JSON has for them.
        self._file = self._path.open("a", encoding="utf-8", errors="backslashreplace", newline="\n")
        if not is_resumed:
            self._write({"run_id": run_id, "config": json_value(redact(config))})

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write a line of values.

        Args:
            values: The values by name; none may be called "step".
            step: Their step.

        Raises:
            RuntimeError: If no run was started.
            ValueError: If the step is below the last one, or a value is called "step".
        """
        if "step" in values:
            raise ValueError("values must have no name 'step', which is the key of their step")
        self._started()
        row = {name: json_value(float(value)) for name, value in values.items()}
        if self._order.passes(step):
            self._write({"step": step, **row})

    def artifact(self, path: str | Path) -> None:
        """Write the path of a file; the file itself stays where it is.

        Args:
            path: The file.

        Raises:
            RuntimeError: If no run was started.
        """
        self._write({"artifact": str(path)})

    def finish(self, status: str) -> None:
        """Write the status and close the file.

        Args:
            status: One of `STATUSES`.

        Raises:
            RuntimeError: If no run was started.
            ValueError: If the status is none of them.
        """
        check_status(status)
        self._write({"status": status})
        self._started().close()
        self._file = None

    @staticmethod
    def read(path: str | Path) -> list[tuple[int, dict[str, float]]]:
        """Return the values in a file, in the order of its lines, without a torn last one.

        Args:
            path: The file.

        Returns:
            The steps with the values by name.

        Raises:
            ValueError: If a line is not what this class writes.
        """
        rows = []
        for number, line in enumerate(_lines(Path(path)), start=1):
            if "step" in line:
                step = line.pop("step")
                try:
                    rows.append((step, {name: float(value) for name, value in line.items()}))
                except (TypeError, ValueError) as error:
                    raise ValueError(f"{path}, line {number} must have numbers: {error}") from error
        return rows

    def _started(self) -> IO[str]:
        if self._file is None:
            raise RuntimeError("JsonlTracker is not started; call start first")
        return self._file

    def _write(self, line: Mapping[str, Any]) -> None:
        file = self._started()
        file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        file.flush()


def _resume(path: Path, run_id: str | None) -> int | None:
    lines = _lines(path)
    found = lines[0].get("run_id") if lines else None
    if run_id is None or found != run_id:
        raise FileExistsError(
            f"{path} exists and is of run {found!r}, not {run_id!r}: choose another path, "
            "delete the file, or resume with its run_id"
        )
    with path.open("r+b") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
    return max((line["step"] for line in lines if "step" in line), default=None)


def _lines(path: Path) -> list[dict[str, Any]]:
    # What follows the last "\n" is a line that a crash tore.
    complete = path.read_bytes().split(b"\n")[:-1]
    lines = []
    for number, text in enumerate(complete, start=1):
        try:
            line = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(line, dict) or not isinstance(line.get("step", 0), int):
            raise ValueError(
                f"{path}, line {number} must be a JSON object whose 'step' is an int, got {line!r}"
            )
        lines.append(line)
    return lines
