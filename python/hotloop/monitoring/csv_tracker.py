"""A table with a column for each name."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from hotloop.monitoring.json_value import json_value
from hotloop.monitoring.redaction import redact
from hotloop.monitoring.step_order import StepOrder
from hotloop.monitoring.tracker import check_status

__all__ = ["CsvTracker"]


class CsvTracker:
    r"""Writes a row for each call of `log`, and flushes it to the operating system.

    The first column is "step", the others are the names in the order in which they came. A name
    that comes later gets a new column: the table is written anew beside the old one, which it
    then replaces. Cells of names that a call did not have are empty; values that are not finite
    are nan, inf and -inf. Beside `metrics.csv` lies `metrics.csv.json`, with the keys
    "run_id", "config", "artifacts" and "status", which is None until the run has ended.

    Files of the same `run_id` are gone on with: a last line without "\n" is cut off, the
    configuration stays, and values of steps up to the last one in the table are not written again.

    Args:
        path: The table; its folder is made if it does not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._about_path = self._path.with_name(self._path.name + ".json")
        self._file: IO[str] | None = None
        self._order = StepOrder(None)
        self._columns: list[str] = []
        self._about: dict[str, Any] = {}

    def start(self, config: Mapping[str, Any], run_id: str | None = None) -> None:
        """Make the files, or open those of the same run.

        Args:
            config: The configuration of the run.
            run_id: The name of the run; None for one that is never resumed.

        Raises:
            RuntimeError: If the last run was not finished.
            FileExistsError: If a file is of another run, or of one without a name.
            ValueError: If a file is not what this class writes.
        """
        if self._file is not None:
            raise RuntimeError("CsvTracker is already started; call finish first")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        about, rows = self._found(run_id)
        steps = [int(row[0]) for row in rows[1:]]
        self._columns = rows[0] if rows else ["step"]
        self._order = StepOrder(max(steps, default=None))
        self._about = about or {
            "run_id": run_id,
            "config": json_value(redact(config)),
            "artifacts": [],
        }
        self._save_about(None)
        self._replace(rows or [self._columns])

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write a row.

        Args:
            values: The values by name; none may be called "step".
            step: Their step.

        Raises:
            RuntimeError: If no run was started.
            ValueError: If the step is below the last one, or a value is called "step".
        """
        if "step" in values:
            raise ValueError("values must have no name 'step', which is the column of their step")
        self._started()
        cells = {name: repr(float(value)) for name, value in values.items()}
        if not self._order.passes(step):
            return
        new = [name for name in cells if name not in self._columns]
        if new:
            padding = [""] * len(new)
            columns = [*self._columns, *new]
            self._replace([columns, *([*row, *padding] for row in _rows(self._path)[1:])])
            self._columns = columns
        row = [str(step), *(cells.get(name, "") for name in self._columns[1:])]
        self._started().write(_text([row]))
        self._started().flush()

    def artifact(self, path: str | Path) -> None:
        """Add the path of a file to "artifacts"; the file itself stays where it is.

        Args:
            path: The file.

        Raises:
            RuntimeError: If no run was started.
        """
        self._started()
        self._about["artifacts"].append(str(path))
        self._save_about(None)

    def finish(self, status: str) -> None:
        """Write the status and close the table.

        Args:
            status: One of `STATUSES`.

        Raises:
            RuntimeError: If no run was started.
            ValueError: If the status is none of them.
        """
        check_status(status)
        self._started().close()
        self._file = None
        self._save_about(status)

    @staticmethod
    def read(path: str | Path) -> list[tuple[int, dict[str, float]]]:
        """Return the values in a table, without a torn last line.

        Args:
            path: The table.

        Returns:
            The steps with the values by name, a pair for each row; empty cells are left out.

        Raises:
            ValueError: If the table is not what this class writes.
        """
        rows = _rows(Path(path))
        return [
            (int(row[0]), {n: float(c) for n, c in zip(rows[0][1:], row[1:]) if c})
            for row in rows[1:]
        ]

    def _found(self, run_id: str | None) -> tuple[dict[str, Any] | None, list[list[str]]]:
        if not self._path.exists() and not self._about_path.exists():
            return None, []
        about = _read_about(self._about_path) if self._about_path.exists() else None
        found = None if about is None else about.get("run_id")
        if run_id is None or found != run_id:
            raise FileExistsError(
                f"{self._path} or {self._about_path.name} exists and is of run {found!r}, not "
                f"{run_id!r}: choose another path, delete both, or resume with its run_id"
            )
        return about, _rows(self._path) if self._path.exists() else []

    def _started(self) -> IO[str]:
        if self._file is None:
            raise RuntimeError("CsvTracker is not started; call start first")
        return self._file

    def _save_about(self, status: str | None) -> None:
        text = json.dumps({**self._about, "status": status}, indent=2, allow_nan=False)
        _write(self._about_path, text + "\n")

    def _replace(self, rows: Iterable[list[str]]) -> None:
        _write(self._path, _text(rows))
        if self._file is not None:
            self._file.close()
        self._file = self._path.open("a", encoding="utf-8", newline="")


def _write(path: Path, text: str) -> None:
    new = path.with_name(path.name + ".new")
    with new.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)


def _read_about(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(about, dict):
        raise ValueError(f"{path} must be a JSON object, got {about!r}")
    return about


def _text(rows: Iterable[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _rows(path: Path) -> list[list[str]]:
    # What follows the last "\n" is a line that a crash tore.
    complete, _, _ = path.read_bytes().rpartition(b"\n")
    try:
        rows = list(csv.reader(io.StringIO(complete.decode(), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a table: {error}") from error
    if rows and rows[0][:1] != ["step"]:
        raise ValueError(f"{path} must begin with the column 'step', got {rows[0]!r}")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(rows[0]) or not _is_numeric(row):
            raise ValueError(
                f"{path}, row {number} must have a step and {len(rows[0]) - 1} cells with a number "
                f"or nothing, got {row!r}"
            )
    return rows


def _is_numeric(row: list[str]) -> bool:
    try:
        int(row[0])
        [float(cell) for cell in row[1:] if cell]
    except ValueError:
        return False
    return True
