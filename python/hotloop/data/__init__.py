"""The order of training data: shuffled anew in each epoch, from any batch on."""

from hotloop.data.loader import generators_of, skip
from hotloop.data.shuffled_sampler import ShuffledSampler

__all__ = ["ShuffledSampler", "generators_of", "skip"]
