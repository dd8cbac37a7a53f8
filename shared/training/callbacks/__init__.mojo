"""What watches a run, and asks its loop for something."""

from .callback import Action, Callback, Callbacks, Progress
from .checkpointing import Checkpointing
from .early_stopping import EarlyStopping
from .log_metrics import LogMetrics
from .print_epochs import PrintEpochs
