"""A table of tensors in the test's own memory, and a rule whose result is exact."""

from std.sys import size_of

from shared.training.core import (
    Context,
    LaneUpdate,
    Scalars,
    UpdateRule,
    words_at,
)
from shared.training.core.table import (
    RECORD_WORDS,
    ContextWord,
    RowWord,
    block_count,
)

comptime GUARD = 16
"""Elements behind each tensor that no kernel may touch."""

comptime SENTINEL = 77
"""What the guard elements hold."""


@fieldwise_init
struct SumUpdate(LaneUpdate):
    """Adds gradients up; the second state records how many lanes were taken."""

    comptime STATES = 2
    comptime HAS_SCALAR_ROUNDING = True

    var weight: Float64
    var step: Float64

    @always_inline
    def apply[
        dtype: DType, width: Int
    ](
        self,
        mut param: SIMD[dtype, width],
        grad: SIMD[dtype, width],
        mut state: Array[SIMD[dtype, width], Self.STATES],
    ):
        comptime Lanes = SIMD[dtype, width]
        state[0] = state[0] + grad
        state[1] = Lanes(width)
        param = (
            param
            + state[0] * Lanes(self.weight.cast[dtype]())
            + Lanes(self.step.cast[dtype]())
        )


@fieldwise_init
struct Sum(UpdateRule):
    """`sum += grad` and `param += weight sum + bias step`."""

    comptime Update = SumUpdate

    var weight: Float64
    var bias: Float64

    def at_step(self, step: Float64, mut scalars: Scalars) -> Self.Update:
        return SumUpdate(weight=self.weight, step=self.bias * step)


def start_value(tensor: Int, index: Int) -> Int:
    """Gives element `index` of a parameter before the first step."""
    return (3 * tensor + 5 * index) % 23 - 11


def gradient(tensor: Int, index: Int) -> Int:
    """Gives element `index` of a gradient."""
    return (7 * tensor + 3 * index) % 13 - 6


struct Tensors[dtype: DType](Movable):
    """Parameters, gradients, states and the words that describe them."""

    var params: List[List[Scalar[Self.dtype]]]
    var grads: List[List[Scalar[Self.dtype]]]
    var states: List[List[Scalar[Self.dtype]]]
    var numels: List[Int]
    var steps: List[Float32]
    var groups: List[Int]
    var has_grad: List[Bool]
    var rules: List[Sum]
    var grad_scale: List[Float32]
    """One divisor of the gradients, or none."""
    var blocks: Int
    var _table: List[Int64]
    var _records: List[Int64]
    var _context: List[Int64]

    def __init__(out self, var numels: List[Int]):
        """Fills the tensors with small whole numbers.

        Args:
            numels: The length of each tensor.
        """
        var tensors = len(numels)
        self.params = []
        self.grads = []
        self.states = []
        for t in range(tensors):
            var param = List[Scalar[Self.dtype]](
                length=numels[t] + GUARD, fill=SENTINEL
            )
            var grad = param.copy()
            var state = param.copy()
            for i in range(numels[t]):
                param[i] = Scalar[Self.dtype](start_value(t, i))
                grad[i] = Scalar[Self.dtype](gradient(t, i))
                state[i] = 0
            self.params.append(param^)
            self.grads.append(grad^)
            for _ in range(SumUpdate.STATES):
                self.states.append(state.copy())
        self.numels = numels^
        self.steps = List[Float32](length=tensors, fill=0)
        self.groups = List[Int](length=tensors, fill=0)
        self.has_grad = List[Bool](length=tensors, fill=True)
        self.rules = [Sum(weight=0.5, bias=1)]
        self.grad_scale = []
        self.blocks = 0
        self._table = List[Int64](length=tensors * RowWord.END, fill=0)
        self._records = List[Int64](length=tensors * RECORD_WORDS, fill=0)
        self._context = List[Int64](length=ContextWord.END, fill=0)

    def context(mut self) -> Context:
        """Writes the table anew.

        Returns:
            The context, valid while the tensors are.
        """
        self.blocks = 0
        var elements = 0
        for t in range(len(self.numels)):
            var row = t * RowWord.END
            self._table[row + RowWord.PARAM] = Int64(
                Int(self.params[t].unsafe_ptr())
            )
            self._table[row + RowWord.GRAD] = 0
            if self.has_grad[t]:
                self._table[row + RowWord.GRAD] = Int64(
                    Int(self.grads[t].unsafe_ptr())
                )
            for s in range(SumUpdate.STATES):
                self._table[row + RowWord.STATE + s] = Int64(
                    Int(self.states[t * SumUpdate.STATES + s].unsafe_ptr())
                )
            self._table[row + RowWord.STEP] = Int64(
                Int(Pointer(to=self.steps[t]))
            )
            self._table[row + RowWord.NUMEL] = Int64(self.numels[t])
            self._table[row + RowWord.FIRST_BLOCK] = Int64(self.blocks)
            self._table[row + RowWord.GROUP] = Int64(self.groups[t])
            self.blocks += block_count(self.numels[t])
            elements += self.numels[t]
        self._context[ContextWord.TABLE] = Int64(Int(self._table.unsafe_ptr()))
        self._context[ContextWord.TENSORS] = Int64(len(self.numels))
        self._context[ContextWord.BLOCKS] = Int64(self.blocks)
        self._context[ContextWord.ELEMENTS] = Int64(elements)
        Context(words_at(Int(self._context.unsafe_ptr()))).set_number(
            ContextWord.GRAD_FACTOR, 1
        )
        self._context[ContextWord.HYPERPARAMETERS] = Int64(
            Int(self.rules.unsafe_ptr())
        )
        self._context[ContextWord.HYPERPARAMETERS_STRIDE] = Int64(
            size_of[Sum]() // 8
        )
        self._context[ContextWord.RECORDS] = Int64(
            Int(self._records.unsafe_ptr())
        )
        self._context[ContextWord.GRAD_SCALE] = 0
        if len(self.grad_scale) > 0:
            self._context[ContextWord.GRAD_SCALE] = Int64(
                Int(self.grad_scale.unsafe_ptr())
            )
        return Context(words_at(Int(self._context.unsafe_ptr())))
