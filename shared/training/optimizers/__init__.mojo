"""Update rules, one file each, and the optimizer that applies them.

A Mojo program takes a rule and hands it to an `Optimizer`, which owns the state:
`Optimizer(AdamW(lr=0.1))`.
"""

from .adam import Adam
from .adamw import AdamW
from .lamb import LAMB
from .lars import LARS
from .optimizer import Optimizer, Parameter
from .prodigy import Prodigy
from .sgd import SGD
