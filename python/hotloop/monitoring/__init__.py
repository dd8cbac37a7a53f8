"""What a run reports: trackers, rates, memory, and values that do not fit."""

from hotloop.monitoring.anomaly_detector import AnomalyDetector
from hotloop.monitoring.csv_tracker import CsvTracker
from hotloop.monitoring.jsonl_tracker import JsonlTracker
from hotloop.monitoring.memory import memory_use
from hotloop.monitoring.mlflow_tracker import MlflowTracker
from hotloop.monitoring.outbox import Outbox
from hotloop.monitoring.redaction import redact
from hotloop.monitoring.tensorboard_tracker import TensorBoardTracker
from hotloop.monitoring.throughput import Throughput, transformer_flops_per_token
from hotloop.monitoring.tracker import STATUSES, Tracker
from hotloop.monitoring.wandb_tracker import WandbTracker

__all__ = [
    "STATUSES",
    "AnomalyDetector",
    "CsvTracker",
    "JsonlTracker",
    "MlflowTracker",
    "Outbox",
    "TensorBoardTracker",
    "Throughput",
    "Tracker",
    "WandbTracker",
    "memory_use",
    "redact",
    "transformer_flops_per_token",
]
