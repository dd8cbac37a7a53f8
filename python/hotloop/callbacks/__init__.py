"""What can be hooked into training: callbacks see a frozen view and return actions."""

from hotloop.callbacks.callback import Action, Callback, Callbacks, Stop, TrainState
from hotloop.callbacks.progress_bar import ProgressBar

__all__ = ["Action", "Callback", "Callbacks", "ProgressBar", "Stop", "TrainState"]
