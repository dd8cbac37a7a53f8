"""Schedules: pure functions of the step, and what writes them into an optimizer."""

from .cosine_restarts import CosineRestarts
from .cyclic import Cyclic
from .exponential import Exponential
from .inverse_sqrt import InverseSqrt
from .noisy import Noisy
from .one_cycle import OneCycle
from .plateau import ReduceOnPlateau
from .ramp import Cosine, Linear, Polynomial
from .schedule import Clamp, Constant, Product, Repeat, Schedule, Then
from .scheduler import LRScheduler, Scheduler
from .step import MultiStep, Step
from .table import Lambda, Piecewise, Table
from .warmup import Warmup
from .warmup_stable_decay import WarmupStableDecay
