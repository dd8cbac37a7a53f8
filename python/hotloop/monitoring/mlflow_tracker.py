"""Runs of MLflow."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hotloop.monitoring.extra import import_extra
from hotloop.monitoring.json_value import json_value
from hotloop.monitoring.redaction import redact
from hotloop.monitoring.tracker import check_status

__all__ = ["MlflowTracker"]

_RUN_ID_TAG = "hotloop.run_id"
_STATUS_TAG = "hotloop.status"
#: MLflow takes no more in one call.
_PARAMS_PER_CALL = 100
_METRICS_PER_CALL = 1000
_MLFLOW_STATUSES = {
    "finished": "FINISHED",
    "stopped": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}


class MlflowTracker:
    """Writes a run of MLflow, by default into an SQLite file in the current folder.

    MLflow 3.17 refuses the older store of plain files (`file:` addresses) unless the variable
    MLFLOW_ALLOW_FILE_STORE is set. The configuration becomes params, with the names of nested
    values joined by dots. Credentials of a server are not taken here: MLflow reads its own from
    the environment.

    Args:
        experiment: The experiment of the run, which is made if it does not exist.
        uri: The tracking address.

    Raises:
        ImportError: If mlflow is not installed, the extra `mlflow`.
    """

    def __init__(self, experiment: str, uri: str = "sqlite:///mlflow.db") -> None:
        self._mlflow = import_extra("mlflow", "mlflow", "MlflowTracker")
        self._entities = import_extra("mlflow.entities", "mlflow", "MlflowTracker")
        self._experiment = experiment
        self._uri = uri
        self._client: Any = None
        self._run_id = ""

    def start(self, config: Mapping[str, Any], run_id: str | None = None) -> None:
        """Begin a run, or go on with the newest one that has the tag `hotloop.run_id`.

        MLflow's params cannot change, so a resumed run keeps those of its first start.

        Args:
            config: The configuration of the run.
            run_id: The run's name and tag. MLflow chooses its own id.

        Raises:
            RuntimeError: If the last run was not finished.
            ValueError: If `run_id` has a quote in it.
        """
        if self._client is not None:
            raise RuntimeError("MlflowTracker is already started; call finish first")
        if run_id is not None and "'" in run_id:
            raise ValueError(f"run_id must have no quote in it, got {run_id!r}")
        client = self._mlflow.MlflowClient(tracking_uri=self._uri)
        experiment = client.get_experiment_by_name(self._experiment)
        experiment_id = (
            client.create_experiment(self._experiment)
            if experiment is None
            else experiment.experiment_id
        )
        found = [] if run_id is None else _runs(client, experiment_id, run_id)
        if found:
            self._run_id = found[0].info.run_id
            client.update_run(self._run_id, status="RUNNING")
        else:
            tags = {} if run_id is None else {_RUN_ID_TAG: run_id}
            run = client.create_run(experiment_id, tags=tags, run_name=run_id)
            self._run_id = run.info.run_id
            param = self._entities.Param
            params = [param(name, value) for name, value in _flat(json_value(redact(config)))]
            for first in range(0, len(params), _PARAMS_PER_CALL):
                client.log_batch(self._run_id, params=params[first : first + _PARAMS_PER_CALL])
        self._client = client

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write values.

        Args:
            values: The values by name, of letters, digits, `_-./: ` and spaces. MLflow's SQL
                stores keep infinities as the largest float64.
            step: Their step; what a resumed run repeats is there twice.

        Raises:
            RuntimeError: If no run was started.
        """
        client = self._started()
        now = int(time.time() * 1000)
        metric = self._entities.Metric
        metrics = [metric(name, float(value), now, step) for name, value in values.items()]
        for first in range(0, len(metrics), _METRICS_PER_CALL):
            client.log_batch(self._run_id, metrics=metrics[first : first + _METRICS_PER_CALL])

    def artifact(self, path: str | Path) -> None:
        """Copy a file into the run.

        Args:
            path: The file.

        Raises:
            RuntimeError: If no run was started.
        """
        self._started().log_artifact(self._run_id, str(path))

    def finish(self, status: str) -> None:
        """End the run.

        MLflow's status is FINISHED for "finished" and "stopped", FAILED for "failed" and KILLED
        for "interrupted"; the tag `hotloop.status` has ours.

        Args:
            status: One of `STATUSES`.

        Raises:
            RuntimeError: If no run was started.
            ValueError: If the status is none of them.
        """
        check_status(status)
        client = self._started()
        self._client = None
        client.set_tag(self._run_id, _STATUS_TAG, status)
        client.set_terminated(self._run_id, status=_MLFLOW_STATUSES[status])

    def _started(self) -> Any:
        if self._client is None:
            raise RuntimeError("MlflowTracker is not started; call start first")
        return self._client


def _runs(client: Any, experiment_id: str, run_id: str) -> list[Any]:
    return list(
        client.search_runs(
            [experiment_id],
            filter_string=f"tags.`{_RUN_ID_TAG}` = '{run_id}'",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
    )


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)
