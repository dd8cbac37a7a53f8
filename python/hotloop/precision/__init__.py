"""In which numbers a run computes, and what it keeps for the backward pass."""

from hotloop.precision.checkpoint_activations import ActivationCheckpoints, checkpoint_activations
from hotloop.precision.numerics import numerics
from hotloop.precision.precision import Precision

__all__ = ["ActivationCheckpoints", "Precision", "checkpoint_activations", "numerics"]
