"""What can be hooked into training: callbacks see a frozen view and return actions."""

from hotloop.callbacks.callback import Action, Callback, Callbacks, Stop, TrainState
from hotloop.callbacks.learning_rate_monitor import LearningRateMonitor
from hotloop.callbacks.progress_bar import ProgressBar

__all__ = [
    "Action",
    "Callback",
    "Callbacks",
    "LearningRateMonitor",
    "ProgressBar",
    "Stop",
    "TrainState",
]
