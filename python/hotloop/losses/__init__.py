"""Losses that return their sum and what it is to be divided by."""

from hotloop.losses.cross_entropy import CrossEntropy, cross_entropy
from hotloop.losses.focal import focal, sigmoid_focal
from hotloop.losses.lm_cross_entropy import LMCrossEntropy, lm_cross_entropy
from hotloop.losses.loss_sum import LossSum

__all__ = [
    "CrossEntropy",
    "LMCrossEntropy",
    "LossSum",
    "cross_entropy",
    "focal",
    "lm_cross_entropy",
    "sigmoid_focal",
]
