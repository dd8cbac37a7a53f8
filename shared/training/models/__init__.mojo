"""Networks with hand-written gradients, over samples stored feature by feature."""

from .activations import (
    GELU,
    Activation,
    Elementwise,
    LeakyReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Tanh,
    TanhGELU,
)
from .block import Block
from .layer import Layer
from .linear import Linear
from .objectives import (
    BinaryCrossEntropy,
    CrossEntropy,
    Huber,
    MeanSquaredError,
    Objective,
    Outcome,
    Targets,
)
