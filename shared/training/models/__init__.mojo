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
from .dataset import Dataset
from .layer import Layer, ParameterSpec
from .linear import Linear
from .network import Network
from .objectives import (
    BinaryCrossEntropy,
    CrossEntropy,
    Huber,
    HuberError,
    LogisticError,
    MeanSquaredError,
    Objective,
    Outcome,
    PointLoss,
    PointObjective,
    SquaredError,
    Targets,
)
from .sequential import Residual, Sequential
