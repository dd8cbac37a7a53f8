"""Schedules: pure functions of the step, and what writes them into an optimizer."""

from hotloop.schedulers.cosine_restarts import CosineRestarts
from hotloop.schedulers.create import create_schedule, create_scheduler
from hotloop.schedulers.cyclic import Cyclic
from hotloop.schedulers.exponential import Exponential
from hotloop.schedulers.inverse_sqrt import InverseSqrt
from hotloop.schedulers.length import Length
from hotloop.schedulers.lr_scheduler import ScheduleLR, as_lr_scheduler
from hotloop.schedulers.noisy import Noisy
from hotloop.schedulers.one_cycle import OneCycle
from hotloop.schedulers.plan import StepPlan, plan_steps
from hotloop.schedulers.plateau import ReduceOnPlateau
from hotloop.schedulers.plot import chart, plot
from hotloop.schedulers.ramp import Cosine, Linear, Polynomial
from hotloop.schedulers.schedule import Clamp, Constant, Product, Repeat, Schedule, Then, from_spec
from hotloop.schedulers.scheduler import Scheduler
from hotloop.schedulers.step import MultiStep, Step
from hotloop.schedulers.table import Lambda, Piecewise, Table
from hotloop.schedulers.warmup import Warmup
from hotloop.schedulers.warmup_stable_decay import WarmupStableDecay

__all__ = [
    "Clamp",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Cyclic",
    "Exponential",
    "InverseSqrt",
    "Lambda",
    "Length",
    "Linear",
    "MultiStep",
    "Noisy",
    "OneCycle",
    "Piecewise",
    "Polynomial",
    "Product",
    "ReduceOnPlateau",
    "Repeat",
    "Schedule",
    "ScheduleLR",
    "Scheduler",
    "Step",
    "StepPlan",
    "Table",
    "Then",
    "Warmup",
    "WarmupStableDecay",
    "as_lr_scheduler",
    "chart",
    "create_schedule",
    "create_scheduler",
    "from_spec",
    "plan_steps",
    "plot",
]
