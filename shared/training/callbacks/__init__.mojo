"""What watches a run, and asks its loop for something."""

from .callback import Action, Callback, Callbacks, Progress
from .early_stopping import EarlyStopping
from .print_epochs import PrintEpochs
