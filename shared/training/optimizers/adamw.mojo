"""AdamW (Loshchilov and Hutter, 2017, arXiv:1711.05101)."""

from .adam import Adam

comptime AdamW[amsgrad: Bool = False, fast: Bool = False] = Adam[
    amsgrad, decoupled=True, fast=fast
]
"""Adam whose weight decay shrinks the parameter and never enters the moments.

Before Adam's step the parameter is multiplied by `1 - lr * weight_decay`; the
default weight decay is 0.01.

Parameters:
    amsgrad: Whether to divide by the largest second moment so far.
    fast: Whether float32 arithmetic approximates; see `Adam`.
"""
