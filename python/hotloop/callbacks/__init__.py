"""What can be hooked into training: callbacks see a frozen view and return actions."""

from hotloop.callbacks.action import (
    Accumulate,
    Action,
    KeepWeights,
    RestoreWeights,
    Save,
    Stop,
    Validate,
)
from hotloop.callbacks.callback import Actions, Callback, TrainState
from hotloop.callbacks.callbacks import Callbacks
from hotloop.callbacks.checkpointing import Checkpointing
from hotloop.callbacks.device_stats import DeviceStats
from hotloop.callbacks.early_stopping import EarlyStopping
from hotloop.callbacks.gradient_accumulation_schedule import GradientAccumulationSchedule
from hotloop.callbacks.learning_rate_monitor import LearningRateMonitor
from hotloop.callbacks.log_metrics import LogMetrics
from hotloop.callbacks.model_summary import ModelSummary, SummaryRow, summarize
from hotloop.callbacks.plot_curves import PlotCurves
from hotloop.callbacks.progress_bar import ProgressBar
from hotloop.callbacks.throughput_monitor import ThroughputMonitor
from hotloop.callbacks.timer import Timer

__all__ = [
    "Accumulate",
    "Action",
    "Actions",
    "Callback",
    "Callbacks",
    "Checkpointing",
    "DeviceStats",
    "EarlyStopping",
    "GradientAccumulationSchedule",
    "KeepWeights",
    "LearningRateMonitor",
    "LogMetrics",
    "ModelSummary",
    "PlotCurves",
    "ProgressBar",
    "RestoreWeights",
    "Save",
    "Stop",
    "SummaryRow",
    "ThroughputMonitor",
    "Timer",
    "TrainState",
    "Validate",
    "summarize",
]
