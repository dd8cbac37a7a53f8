"""The layout of what crosses from Python to the kernels.

Every array belongs to the caller, so that the kernels hold no state: a context,
a table with one row for each tensor, the hyperparameters of each group and
scratch memory for the constants of the step. `python/hotloop/optimizers/plan.py`
fills them and repeats these numbers; a test compares the two.
"""

from .memory import Words, pointer_at, words_at
from .rule import SCALARS_MAX, LaneUpdate, UpdateRule

comptime BLOCK = 256
"""Elements in a block, the unit that is dealt out to threads.

A block never crosses a tensor's end. 256 elements are a multiple of a cache
line in every dtype, so that two threads never write to one line.
"""

comptime ROW_WORK = 24
"""What a row costs beside its elements, in elements' worth of time."""

comptime THREAD_WORK = 8192
"""The least work, in elements, that repays waking another thread."""

comptime STATES_MAX = 4
"""The most state tensors that a row has room for."""

comptime RECORD_WORDS = 16
"""Words that the constants of one step may take."""


def block_count(numel: Int) -> Int:
    """Counts the blocks of a tensor.

    Args:
        numel: Number of elements.

    Returns:
        The number of blocks; the last one may be short.
    """
    return (numel + BLOCK - 1) // BLOCK


struct RowWord:
    """Where each field of a table's row lies, in words."""

    comptime PARAM = 0
    """Address of the parameter's first element."""
    comptime GRAD = 1
    """Address of the gradient's first element; 0 skips the tensor."""
    comptime STATE = 2
    """Addresses of up to `STATES_MAX` state tensors."""
    comptime STEP = 6
    """Address of the float32 count of applied steps; 0 before there is state."""
    comptime SCALAR = 7
    """Addresses of up to `SCALARS_MAX` float32 states with one element."""
    comptime AVERAGE = 9
    """Address of the parameter's moving average, or 0 to keep none."""
    comptime NUMEL = 10
    """Number of elements."""
    comptime FIRST_BLOCK = 11
    """Number of blocks in the rows before this one."""
    comptime GROUP = 12
    """Which row of the hyperparameters applies."""
    comptime RECORD = 13
    """Which record of constants applies; written by `prepare`."""
    comptime ROWS = 14
    """Number of rows of each matrix in the tensor; 0 below two dimensions."""
    comptime COLUMNS = 15
    """Number of columns of each matrix, the tensor's last dimension."""
    comptime PARTS = 16
    """Into how many parts a kernel with factored state divides the tensor."""
    comptime SCRATCH = 17
    """Address of scratch for COLUMNS + `SUMS_MAX` float64 of each part."""
    comptime END = 18
    """Number of words."""


struct ContextWord:
    """Where each field of a context lies, in words."""

    comptime TABLE = 0
    """Address of the table."""
    comptime TENSORS = 1
    """Number of rows of the table."""
    comptime BLOCKS = 2
    """Number of blocks of all rows."""
    comptime HYPERPARAMETERS = 3
    """Address of the hyperparameters, a row of float64 for each group."""
    comptime HYPERPARAMETERS_STRIDE = 4
    """Words from one group's hyperparameters to the next."""
    comptime RECORDS = 5
    """Address of scratch for one record of constants for each tensor."""
    comptime GRAD_SCALE = 6
    """Address of a float32 that divides the gradients in place, or 0."""
    comptime ELEMENTS = 7
    """Number of elements of all rows."""
    comptime GRAD_FACTOR = 8
    """A float64 that multiplies the gradients as they are read; 1 for none."""
    comptime AVERAGE_WEIGHT = 9
    """A float64, how far the averages move to the new parameters; 0 for none."""
    comptime ZERO_GRAD = 10
    """Whether the gradients become 0 once they are used."""
    comptime PARTIALS = 11
    """Address of scratch for `SUMS_MAX` float64 of each block."""
    comptime GROUPS = 12
    """Number of rows of the hyperparameters."""
    comptime END = 13
    """Number of words that the kernels read."""


@fieldwise_init
struct TensorRow(ImplicitlyCopyable, Movable):
    """One row of the table, read and written in place."""

    var words: Words
    """The row's first word."""

    def param(self) -> Int:
        """Reads the address of the parameter.

        Returns:
            The address of the first element.
        """
        return Int(self.words[unsafe_offset=RowWord.PARAM])

    def grad(self) -> Int:
        """Reads the address of the gradient.

        Returns:
            The address of the first element, or 0 if there is no gradient.
        """
        return Int(self.words[unsafe_offset=RowWord.GRAD])

    def state(self, index: Int) -> Int:
        """Reads the address of a state tensor.

        Args:
            index: Which one, from 0.

        Returns:
            The address of the first element.
        """
        return Int(self.words[unsafe_offset=RowWord.STATE + index])

    def step(self) -> MutPointer[Float32, MutUntrackedOrigin]:
        """Points to the count of applied steps.

        Returns:
            A pointer to one float32.
        """
        return pointer_at[Float32](Int(self.words[unsafe_offset=RowWord.STEP]))

    def scalar(self, index: Int) -> MutPointer[Float32, MutUntrackedOrigin]:
        """Points to a state with one element.

        Args:
            index: Which one, from 0.

        Returns:
            A pointer to one float32.
        """
        return pointer_at[Float32](
            Int(self.words[unsafe_offset=RowWord.SCALAR + index])
        )

    def average(self) -> Int:
        """Reads the address of the parameter's moving average.

        Returns:
            The address of the first element, or 0 if none is kept.
        """
        return Int(self.words[unsafe_offset=RowWord.AVERAGE])

    def numel(self) -> Int:
        """Reads the number of elements.

        Returns:
            The number of elements.
        """
        return Int(self.words[unsafe_offset=RowWord.NUMEL])

    def first_block(self) -> Int:
        """Reads the number of the row's first block.

        Returns:
            The number of blocks in the rows before this one.
        """
        return Int(self.words[unsafe_offset=RowWord.FIRST_BLOCK])

    def rows(self) -> Int:
        """Reads the number of rows of each matrix in the tensor.

        Returns:
            The number of rows.
        """
        return Int(self.words[unsafe_offset=RowWord.ROWS])

    def columns(self) -> Int:
        """Reads the number of columns of each matrix in the tensor.

        Returns:
            The number of columns.
        """
        return Int(self.words[unsafe_offset=RowWord.COLUMNS])

    def parts(self) -> Int:
        """Reads into how many parts the tensor is divided.

        Returns:
            The number of parts.
        """
        return Int(self.words[unsafe_offset=RowWord.PARTS])

    def scratch(self) -> Int:
        """Reads the address of the scratch of the parts.

        Returns:
            The address of the first float64.
        """
        return Int(self.words[unsafe_offset=RowWord.SCRATCH])

    def group(self) -> Int:
        """Reads which hyperparameters apply.

        Returns:
            The group's index.
        """
        return Int(self.words[unsafe_offset=RowWord.GROUP])

    def record(self) -> Int:
        """Reads which constants apply.

        Returns:
            The record's index.
        """
        return Int(self.words[unsafe_offset=RowWord.RECORD])

    def set_record(self, index: Int):
        """Writes which constants apply.

        Args:
            index: The record's index.
        """
        self.words[unsafe_offset=RowWord.RECORD] = Int64(index)


@fieldwise_init
struct Context(ImplicitlyCopyable, Movable):
    """Everything that one call needs, as words that the caller owns."""

    var words: Words
    """The context's first word."""

    def word(self, index: Int) -> Int:
        """Reads one word.

        Args:
            index: One of `ContextWord`.

        Returns:
            The word.
        """
        return Int(self.words[unsafe_offset=index])

    def number(self, index: Int) -> Float64:
        """Reads one word as a float64.

        Args:
            index: One of `ContextWord`.

        Returns:
            The number.
        """
        return self.words.unsafe_bitcast[Float64]()[unsafe_offset=index]

    def set_number(self, index: Int, value: Float64):
        """Writes one word as a float64.

        Args:
            index: One of `ContextWord`.
            value: The number.
        """
        self.words.unsafe_bitcast[Float64]()[unsafe_offset=index] = value

    def tensors(self) -> Int:
        """Reads the number of rows.

        Returns:
            The number of tensors in the table.
        """
        return self.word(ContextWord.TENSORS)

    def work(self) -> Int:
        """Estimates the work of a step.

        Returns:
            The time it takes, in elements' worth.
        """
        return self.word(ContextWord.ELEMENTS) + ROW_WORK * self.tensors()

    def grain(self) -> Int:
        """Computes how finely the step is worth dividing.

        Returns:
            The fewest blocks worth a thread of their own.
        """
        var blocks = self.word(ContextWord.BLOCKS)
        return 1 + blocks * THREAD_WORK // max(1, self.work())

    def row(self, index: Int) -> TensorRow:
        """Views one row of the table.

        Args:
            index: Which tensor.

        Returns:
            The row.
        """
        return TensorRow(
            words_at(self.word(ContextWord.TABLE)).unsafe_offset(
                index * RowWord.END
            )
        )

    def rule[
        Rule: UpdateRule
    ](self, group: Int) -> MutPointer[Rule, MutUntrackedOrigin]:
        """Points to the hyperparameters of a group.

        Parameters:
            Rule: The rule whose fields they are.

        Args:
            group: Which group.

        Returns:
            A pointer into the caller's array.
        """
        var offset = group * self.word(ContextWord.HYPERPARAMETERS_STRIDE) * 8
        return pointer_at[Rule](self.word(ContextWord.HYPERPARAMETERS) + offset)

    def record[
        Update: LaneUpdate
    ](self, index: Int) -> MutPointer[Update, MutUntrackedOrigin]:
        """Points to a record of constants.

        Parameters:
            Update: The type of the constants.

        Args:
            index: Which record.

        Returns:
            A pointer into the caller's scratch memory.
        """
        return pointer_at[Update](
            self.word(ContextWord.RECORDS) + index * RECORD_WORDS * 8
        )


struct RowRanges:
    """Walks over the tensors that a range of blocks touches.

    After each `advance` that returns True, `row`, `first` and `last` tell which
    elements of which tensor are meant.
    """

    var row: TensorRow
    """The tensor."""
    var first: Int
    """Its first element, at the start of a block."""
    var last: Int
    """One past its last element."""
    var _context: Context
    var _index: Int
    var _block: Int
    var _end: Int

    def __init__(out self, context: Context, begin: Int, end: Int):
        """Starts before the first tensor.

        Args:
            context: The table.
            begin: The first block.
            end: One past the last block.
        """
        self._context = context
        self._block = begin
        self._end = end
        # The last row that starts at or before the block; rows without elements
        # own no block and start where the next row does.
        var low = 0
        var high = context.tensors()
        while high - low > 1:
            var middle = (low + high) // 2
            if context.row(middle).first_block() <= begin:
                low = middle
            else:
                high = middle
        self._index = low
        self.row = context.row(low)
        self.first = 0
        self.last = 0

    def advance(mut self) -> Bool:
        """Goes to the next tensor with elements in the range.

        Returns:
            Whether there is one.
        """
        if self._block >= self._end:
            return False
        self.row = self._context.row(self._index)
        var start = self.row.first_block()
        self.first = (self._block - start) * BLOCK
        self.last = min(self.row.numel(), (self._end - start) * BLOCK)
        self._index += 1
        self._block = start + block_count(self.row.numel())
        return True
