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
from .batch_norm import BatchNorm
from .block import Block
from .conv2d import Conv2d
from .dataset import Dataset
from .dropout import Dropout
from .embedding import Embedding
from .layer import Layer, ParameterLabel, ParameterSpec
from .layer_norm import LayerNorm
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
    Poisson,
    PoissonError,
    SquaredError,
    Targets,
)
from .pooling import AvgPool2d, MaxPool2d
from .sequential import Residual, Sequential
from .window import Window
