"""Losses that give their gradient in the same pass over the predictions."""

from .bce_with_logits import BinaryCrossEntropy
from .cross_entropy import CrossEntropy
from .focal import Focal, SigmoidFocal
from .huber import HuberLoss
from .loss_sum import LossSum
from .mse import SquaredError
from .pointwise import (
    PARTS,
    PointwiseJob,
    PointwiseLoss,
    Slope,
    evaluate,
    pointwise_loss,
    sum_weights,
)
from .row_cross_entropy import (
    RowsOfLogits,
    TargetCount,
    count_targets,
    row_cross_entropy,
)
