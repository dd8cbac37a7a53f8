"""Training of a network that is known at run time only, on memory of the caller.

A program is words: a table of layers, the data, the loss, and where everything lies. A batch is
cut into blocks, which go forward and backward one after the other, so that what a block leaves
stays in the cache; threads share the blocks of a batch, each with a workspace and with gradients
of its own, which are added up in order. Results depend on the number of threads that the program
asks for, and not on who runs them.
"""

from std.sys import simd_width_of, size_of

from ..core.executor import Executor
from ..core.matmul import Matrix, spaced, transpose
from ..core.memory import Address, Elements, Words, words_at
from ..models.block import Block
from ..models.objectives import Outcome, Targets
from ..models.table import LayerTable, evaluate_objective


struct ProgramWord:
    """Where each field of a program lies, in words."""

    comptime DTYPE = 0
    """0 for float32, 1 for float64."""
    comptime LAYERS = 1
    """Number of layers."""
    comptime TABLE = 2
    """Address of the table of layers."""
    comptime BATCH = 3
    """Samples in a batch."""
    comptime BLOCK = 4
    """The most samples in a block, a multiple of the lanes of a vector."""
    comptime THREADS = 5
    """How many threads share a batch."""
    comptime WORKSPACE = 6
    """Address of the threads' workspaces."""
    comptime WORKSPACE_SIZE = 7
    """Elements of each."""
    comptime GRADS = 8
    """Address of all parameters' gradients, those of the other threads behind them."""
    comptime GRADS_SIZE = 9
    """Elements of the gradients of one thread, a multiple of the lanes of a vector."""
    comptime DATA = 10
    """Address of the inputs, sample by sample."""
    comptime INPUTS = 11
    """Features of an input."""
    comptime X = 12
    """Where the inputs go in the workspace, in elements."""
    comptime OUTPUTS = 13
    """Features of an output."""
    comptime Y = 14
    """Where the outputs lie in the workspace, in elements."""
    comptime DY = 15
    """Where their gradient goes in the workspace, in elements."""
    comptime ROWS = 16
    """Where a block's inputs go in the workspace, sample by sample, in elements; rows are `spaced`."""
    comptime LABELS = 17
    """Address of the int64 class of each sample."""
    comptime VALUES = 18
    """Address of the target numbers, sample by sample."""
    comptime ORDER = 19
    """Address of the int64 numbers of the samples, in the order of the epoch."""
    comptime EPOCH = 20
    """How many samples of the order are an epoch, whose last batch may be smaller."""
    comptime OBJECTIVE = 21
    """One of `ObjectiveKind`."""
    comptime OPTION = 22
    """A float64, the loss's option."""
    comptime FIRST_STEP = 23
    """How many batches came before the epoch."""
    comptime LOSSES = 24
    """Address of a float64 for each batch: the mean loss, with weights the weighted one."""
    comptime CORRECT = 25
    """Address of an int64 for each batch: how many samples were classified right."""
    comptime PREDICTIONS = 26
    """Address of the outputs, sample by sample; 0 if nobody needs them."""
    comptime PARTIALS = 27
    """Address of scratch for two words of each thread."""
    comptime STEP = 28
    """The batch in work; written here."""
    comptime IS_TRAINING = 29
    """Whether gradients are computed; written here."""
    comptime DONE = 30
    """How many batches were trained on; written here after each one."""
    comptime SEED = 31
    """Where the random numbers of the epoch begin."""
    comptime HAS_INDICES = 32
    """Whether the inputs are int64, and become numbers of the dtype."""
    comptime NORMS = 33
    """Address of a float64 for each batch: the norm of its gradients, where it is measured."""
    comptime WEIGHTS = 34
    """Address of the weight of each sample, in the dtype of the program; 0 for none."""
    comptime TOTAL = 35
    """A float64: the sum of the weights of the batch in work, its size without weights; written
    here."""
    comptime SQUARES = 36
    """Address of a float64 for each batch: the sum of the squares of the weights of the linear layers
    before it is trained on; 0 for none."""
    comptime END = 37
    """Number of words."""


@fieldwise_init
struct Program(ImplicitlyCopyable, Movable):
    """A program, read and written in place."""

    var words: Words
    """The first word."""

    @always_inline
    def word(self, index: Int) -> Int:
        """Reads a word.

        Args:
            index: One of `ProgramWord`.

        Returns:
            The word.
        """
        return Int(self.words[unsafe_offset=index])

    @always_inline
    def number(self, index: Int) -> Float64:
        """Reads a word as a float64.

        Args:
            index: One of `ProgramWord`.

        Returns:
            The number.
        """
        return self.words.unsafe_bitcast[Float64]()[unsafe_offset=index]

    def batch_size(self, step: Int) -> Int:
        """Counts the samples of a batch.

        Args:
            step: The batch.

        Returns:
            The number of samples.
        """
        var batch = self.word(ProgramWord.BATCH)
        var epoch = self.word(ProgramWord.EPOCH)
        return min(batch, epoch - step % self._batches() * batch)

    def first(self, step: Int) -> Int:
        """Finds where a batch begins.

        Args:
            step: The batch.

        Returns:
            Its place in the order.
        """
        var epoch = step // self._batches() * self.word(ProgramWord.EPOCH)
        return epoch + step % self._batches() * self.word(ProgramWord.BATCH)

    def _batches(self) -> Int:
        var batch = self.word(ProgramWord.BATCH)
        return (self.word(ProgramWord.EPOCH) + batch - 1) // batch

    def total[dtype: DType](self, step: Int) -> Float64:
        """Adds up the weights of a batch, in its order.

        Parameters:
            dtype: Float32 or float64.

        Args:
            step: The batch.

        Returns:
            The sum; the number of samples if there are no weights.
        """
        var size = self.batch_size(step)
        if self.word(ProgramWord.WEIGHTS) == 0:
            return Float64(size)
        var weights = Elements[dtype](
            unsafe_from_address=self.word(ProgramWord.WEIGHTS)
        )
        var order = words_at(self.word(ProgramWord.ORDER)).unsafe_offset(
            self.first(step)
        )
        var total = Float64(0)
        for s in range(size):
            var sample = Int(order[unsafe_offset=s])
            total += weights[unsafe_offset=sample].cast[DType.float64]()
        return total

    def loss(self, step: Int) -> Float64:
        """Reads the mean loss of a batch.

        Args:
            step: The batch.

        Returns:
            What was measured before its update.
        """
        var losses = words_at(self.word(ProgramWord.LOSSES))
        return losses.unsafe_bitcast[Float64]()[unsafe_offset=step]


def run_gradient[
    dtype: DType, Runner: Executor
](program: Program, step: Int, executor: Runner):
    """Computes the loss of a batch, and the gradient of every parameter.

    Parameters:
        dtype: Float32 or float64.
        Runner: The type of the executor.

    Args:
        program: The program.
        step: The batch.
        executor: Who runs the threads' parts.
    """
    if program.word(ProgramWord.SQUARES) != 0:
        var layers = LayerTable[dtype](
            words_at(program.word(ProgramWord.TABLE)),
            program.word(ProgramWord.LAYERS),
        )
        var squares = words_at(program.word(ProgramWord.SQUARES))
        squares.unsafe_bitcast[Float64]()[
            unsafe_offset=step
        ] = layers.squared_weights()
    _run_batch[dtype](program, step, True, executor)
    comptime width = simd_width_of[dtype]()
    var threads = _threads(program, step)
    var size = program.word(ProgramWord.GRADS_SIZE)
    var grads = Elements[dtype](
        unsafe_from_address=program.word(ProgramWord.GRADS)
    )
    for thread in range(1, threads):
        for at in range(0, size, width):
            grads.unsafe_store[width=width](
                at,
                grads.unsafe_load[width=width](at)
                + grads.unsafe_load[width=width](thread * size + at),
            )


def run_forward[
    dtype: DType, Runner: Executor
](program: Program, first: Int, last: Int, executor: Runner):
    """Computes the losses and the outputs of batches, without any gradient.

    Parameters:
        dtype: Float32 or float64.
        Runner: The type of the executor.

    Args:
        program: The program.
        first: The first batch.
        last: One past the last batch.
        executor: Who runs the threads' parts.
    """
    for step in range(first, last):
        _run_batch[dtype](program, step, False, executor)


def _threads(program: Program, step: Int) -> Int:
    var block = program.word(ProgramWord.BLOCK)
    var blocks = (program.batch_size(step) + block - 1) // block
    return min(program.word(ProgramWord.THREADS), blocks)


def _run_batch[
    dtype: DType, Runner: Executor
](program: Program, step: Int, is_training: Bool, executor: Runner):
    program.words[unsafe_offset=ProgramWord.STEP] = Int64(step)
    program.words[unsafe_offset=ProgramWord.IS_TRAINING] = Int64(
        Int(is_training)
    )
    var total = program.total[dtype](step)
    program.words.unsafe_bitcast[Float64]()[
        unsafe_offset=ProgramWord.TOTAL
    ] = total
    var threads = _threads(program, step)
    executor.execute(
        threads, 1, _run_parts[dtype], program.words.unsafe_bitcast[NoneType]()
    )
    var partials = words_at(program.word(ProgramWord.PARTIALS))
    var loss = Float64(0)
    var correct = Int64(0)
    for thread in range(threads):
        loss += partials.unsafe_bitcast[Float64]()[unsafe_offset=2 * thread]
        correct += partials[unsafe_offset=2 * thread + 1]
    var losses = words_at(program.word(ProgramWord.LOSSES))
    losses.unsafe_bitcast[Float64]()[unsafe_offset=step] = loss / total
    words_at(program.word(ProgramWord.CORRECT))[unsafe_offset=step] = correct


def _run_parts[
    dtype: DType
](begin: Int64, end: Int64, context: Address) abi("C") -> None:
    var program = Program(context.unsafe_bitcast[Int64]())
    var step = program.word(ProgramWord.STEP)
    var block = program.word(ProgramWord.BLOCK)
    var size = program.batch_size(step)
    var blocks = (size + block - 1) // block
    var threads = _threads(program, step)
    for thread in range(Int(begin), Int(end)):
        var outcome = Outcome(0, 0)
        var start = blocks * thread // threads
        for index in range(start, blocks * (thread + 1) // threads):
            var part = _run_block[dtype](
                program,
                thread,
                Block(
                    samples=min(block, size - index * block),
                    stride=block,
                    first=index * block,
                    step=program.word(ProgramWord.FIRST_STEP) + step,
                    is_training=program.word(ProgramWord.IS_TRAINING) != 0,
                    accumulates=index > start,
                    grad_shift=thread
                    * program.word(ProgramWord.GRADS_SIZE)
                    * size_of[dtype](),
                    seed=program.word(ProgramWord.SEED),
                ),
            )
            outcome.loss += part.loss
            outcome.correct += part.correct
        var partials = words_at(program.word(ProgramWord.PARTIALS))
        partials.unsafe_bitcast[Float64]()[
            unsafe_offset=2 * thread
        ] = outcome.loss
        partials[unsafe_offset=2 * thread + 1] = Int64(outcome.correct)


def _run_block[
    dtype: DType
](program: Program, thread: Int, block: Block) -> Outcome:
    var step = program.word(ProgramWord.STEP)
    var workspace = Elements[dtype](
        unsafe_from_address=program.word(ProgramWord.WORKSPACE)
    ).unsafe_offset(thread * program.word(ProgramWord.WORKSPACE_SIZE))
    var first = program.first(step) + block.first
    var order = words_at(program.word(ProgramWord.ORDER)).unsafe_offset(first)
    _gather[dtype](program, workspace, order, block)
    var layers = LayerTable[dtype](
        words_at(program.word(ProgramWord.TABLE)),
        program.word(ProgramWord.LAYERS),
    )
    layers.forward(workspace, block)
    var outputs = workspace.unsafe_offset(program.word(ProgramWord.Y))
    var features = program.word(ProgramWord.OUTPUTS)
    if program.word(ProgramWord.PREDICTIONS) != 0:
        _scatter[dtype](program, outputs, order, block)
    if program.word(ProgramWord.OBJECTIVE) < 0:
        return Outcome(0, 0)
    var targets = Targets[dtype](
        words_at(program.word(ProgramWord.LABELS)),
        Elements[dtype](unsafe_from_address=program.word(ProgramWord.VALUES)),
        order,
        program.word(ProgramWord.WEIGHTS),
    )
    var outcome = evaluate_objective[dtype](
        program.word(ProgramWord.OBJECTIVE),
        program.number(ProgramWord.OPTION),
        outputs,
        features,
        targets,
        workspace.unsafe_offset(program.word(ProgramWord.DY)),
        1 / program.number(ProgramWord.TOTAL),
        block,
    )
    if block.is_training:
        layers.backward(workspace, block)
    return outcome


def _gather[
    dtype: DType
](program: Program, workspace: Elements[dtype], order: Words, block: Block):
    # Sample by sample, so that each is one run of memory, and then feature by feature.
    comptime width = simd_width_of[dtype]()
    var features = program.word(ProgramWord.INPUTS)
    if program.word(ProgramWord.HAS_INDICES) != 0:
        _gather_indices[dtype](program, workspace, order, block)
        return
    var data = Elements[dtype](
        unsafe_from_address=program.word(ProgramWord.DATA)
    )
    var rows = workspace.unsafe_offset(program.word(ProgramWord.ROWS))
    # As a first linear layer keeps them.
    var stride = spaced[dtype](features)
    for s in range(block.samples):
        var source = data.unsafe_offset(Int(order[unsafe_offset=s]) * features)
        var row = rows.unsafe_offset(s * stride)
        var at = 0
        while at + width <= features:
            row.unsafe_store[width=width](
                at, source.unsafe_load[width=width](at)
            )
            at += width
        while at < features:
            row[unsafe_offset=at] = source[unsafe_offset=at]
            at += 1
    transpose[dtype](
        Matrix(
            workspace.unsafe_offset(program.word(ProgramWord.X)),
            block.stride,
            1,
        ),
        Matrix(rows, stride, 1),
        block.samples,
        features,
    )


def _gather_indices[
    dtype: DType
](program: Program, workspace: Elements[dtype], order: Words, block: Block):
    var features = program.word(ProgramWord.INPUTS)
    var data = words_at(program.word(ProgramWord.DATA))
    var x = workspace.unsafe_offset(program.word(ProgramWord.X))
    for s in range(block.samples):
        var source = data.unsafe_offset(Int(order[unsafe_offset=s]) * features)
        for f in range(features):
            x[unsafe_offset=f * block.stride + s] = Scalar[dtype](
                source[unsafe_offset=f]
            )


def _scatter[
    dtype: DType
](program: Program, outputs: Elements[dtype], order: Words, block: Block):
    var features = program.word(ProgramWord.OUTPUTS)
    var predictions = Elements[dtype](
        unsafe_from_address=program.word(ProgramWord.PREDICTIONS)
    )
    for s in range(block.samples):
        var row = Int(order[unsafe_offset=s]) * features
        for f in range(features):
            predictions[unsafe_offset=row + f] = outputs[
                unsafe_offset=f * block.stride + s
            ]
