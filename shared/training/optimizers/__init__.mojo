"""Update rules, one file each, and the optimizer that applies them.

A Mojo program takes a rule and hands it to an `Optimizer`, which owns the state:
`Optimizer(AdamW(lr=0.1))`.
"""

from .adadelta import Adadelta
from .adafactor import Adafactor
from .adagrad import Adagrad
from .adam import Adam
from .adamax import Adamax
from .adamw import AdamW
from .adan import Adan
from .adopt import ADOPT
from .asgd import ASGD
from .lion import Lion
from .muon import MuonMomentum
from .nadam import NAdam
from .lamb import LAMB
from .lars import LARS
from .optimizer import Optimizer, OptimizerState, Parameter
from .radam import RAdam
from .rmsprop import RMSprop
from .rprop import Rprop
from .schedule_free_adamw import ScheduleFreeAdamW
from .schedule_free_sgd import ScheduleFreeSGD
from .prodigy import Prodigy
from .sgd import SGD
from .sophia import SophiaG
