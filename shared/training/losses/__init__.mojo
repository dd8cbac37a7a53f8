"""Losses that give their gradient in the same pass over the predictions."""

from .bce_with_logits import BinaryCrossEntropy
from .cross_entropy import (
    CrossEntropyJob,
    TargetCount,
    count_targets,
    cross_entropy,
)
from .focal import SigmoidFocal
from .huber import HuberLoss
from .mse import SquaredError
from .pointwise import (
    PARTS,
    PointwiseJob,
    PointwiseLoss,
    Slope,
    pointwise_loss,
    sum_weights,
)
