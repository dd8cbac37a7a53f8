"""Losses that return their sum and what it is to be divided by."""

from hotloop.losses.bce_with_logits import bce_with_logits
from hotloop.losses.cross_entropy import CrossEntropy, cross_entropy
from hotloop.losses.focal import focal, sigmoid_focal
from hotloop.losses.huber import huber
from hotloop.losses.linear_cross_entropy import linear_cross_entropy
from hotloop.losses.lm_cross_entropy import LMCrossEntropy, lm_cross_entropy
from hotloop.losses.loss_sum import LossSum
from hotloop.losses.mse import mse

__all__ = [
    "CrossEntropy",
    "LMCrossEntropy",
    "LossSum",
    "bce_with_logits",
    "cross_entropy",
    "focal",
    "huber",
    "linear_cross_entropy",
    "lm_cross_entropy",
    "mse",
    "sigmoid_focal",
]
