"""The SIMD driver: typed views of memory, update rules, executors."""

from .driver import measure_blocks, run_blocks, update
from .factored import FactoredRule, FactoredUpdate, update_factored
from .executor import Executor, SerialExecutor, TorchExecutor
from .exponential import exp, log, log1p
from .lanes import (
    compute_dtype,
    divide_by_constant,
    fast_reciprocal,
    fast_reciprocal_sqrt,
    lerp,
    load,
    load_part,
    store,
    store_part,
)
from .learning_rate import LearningRate
from .memory import Address, Words, pointer_at, words_at
from .norm import clip_factor, sum_squares, zero_grads
from .quantized import run_quantized_blocks, update_quantized
from .operators import addcdiv, addcmul, effective_gradient, maximum, sign
from .rule import LaneUpdate, Scalars, Sums, UpdateRule
from .table import Context, TensorRow
from .tree_code import TreeCode
from .text_state import TextState
