"""Networks whose layers are known at run time only: a table of words.

The caller owns the table and all memory that it points to, so that nothing is allocated here.
`python/hotloop/native/program.py` fills it and repeats these numbers; a test compares the two.
"""

from ..core.memory import Elements, Words
from .activations import (
    GELU,
    Activation,
    Elementwise,
    LeakyReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Tanh,
    TanhGELU,
)
from .block import Block
from .layer import Layer
from .linear import Linear
from .objectives import (
    BinaryCrossEntropy,
    CrossEntropy,
    Huber,
    HuberError,
    LogisticError,
    MeanSquaredError,
    Objective,
    Outcome,
    SquaredError,
    Targets,
)


struct LayerKind:
    """Numbers the layers."""

    comptime LINEAR = 0
    """`Linear`."""
    comptime RELU = 1
    """`ReLU`."""
    comptime LEAKY_RELU = 2
    """`LeakyReLU`; its option is the slope."""
    comptime TANH = 3
    """`Tanh`."""
    comptime SIGMOID = 4
    """`Sigmoid`."""
    comptime SILU = 5
    """`SiLU`."""
    comptime GELU = 6
    """`GELU`."""
    comptime GELU_TANH = 7
    """`TanhGELU`."""
    comptime END = 8
    """Number of kinds."""


struct LayerWord:
    """Where each field of a layer lies, in words."""

    comptime KIND = 0
    """One of `LayerKind`."""
    comptime INPUTS = 1
    """Features of an input."""
    comptime OUTPUTS = 2
    """Features of an output."""
    comptime X = 3
    """Where the inputs lie in the workspace, in elements."""
    comptime Y = 4
    """Where the outputs lie in the workspace, in elements."""
    comptime KEPT = 5
    """Where the workspace keeps what the gradient needs, in elements."""
    comptime DY = 6
    """Where the gradient of the outputs lies in the workspace, in elements."""
    comptime DX = 7
    """Where that of the inputs goes in the workspace, in elements; -1 if nobody needs it."""
    comptime WEIGHT = 8
    """Address of the weight."""
    comptime BIAS = 9
    """Address of the bias, or 0."""
    comptime WEIGHT_GRAD = 10
    """Address of the weight's gradient."""
    comptime BIAS_GRAD = 11
    """Address of the bias's gradient."""
    comptime OPTION = 12
    """A float64."""
    comptime END = 13
    """Number of words."""


struct ObjectiveKind:
    """Numbers the losses."""

    comptime CROSS_ENTROPY = 0
    """`CrossEntropy`; its option is the smoothing."""
    comptime MEAN_SQUARED_ERROR = 1
    """`MeanSquaredError`."""
    comptime HUBER = 2
    """`Huber`; its option is delta."""
    comptime BINARY_CROSS_ENTROPY = 3
    """`BinaryCrossEntropy`."""
    comptime END = 4
    """Number of kinds."""


@fieldwise_init
struct _Visit[dtype: DType](ImplicitlyCopyable, Movable):
    """What is done with a layer: 0 counts what it keeps, 1 runs it, 2 runs it backward."""

    var task: Int
    var words: Words
    var workspace: Elements[Self.dtype]
    var block: Block

    @always_inline
    def run[L: Layer](self, layer: L) -> Int:
        comptime assert L.dtype == Self.dtype, "a layer of another dtype"
        if self.task == 0:
            return layer.kept(self.block.stride)
        var x = self._at[L.dtype](LayerWord.X)
        var y = self._at[L.dtype](LayerWord.Y)
        var kept = self._at[L.dtype](LayerWord.KEPT)
        if self.task == 1:
            layer.forward(x, y, kept, self.block)
            return 0
        var needs_dx = self.words[unsafe_offset=LayerWord.DX] >= 0
        layer.backward(
            x,
            y,
            kept,
            self._at[L.dtype](LayerWord.DY),
            self._at[L.dtype](LayerWord.DX if needs_dx else LayerWord.DY),
            needs_dx,
            self.block,
        )
        return 0

    @always_inline
    def _at[scalar: DType](self, word: Int) -> Elements[scalar]:
        return self.workspace.unsafe_offset(
            Int(self.words[unsafe_offset=word])
        ).unsafe_bitcast[Scalar[scalar]]()


@no_inline
def _visit[dtype: DType](visit: _Visit[dtype]) -> Int:
    var words = visit.words
    var kind = Int(words[unsafe_offset=LayerWord.KIND])
    if kind == LayerKind.LINEAR:
        return visit.run(
            Linear[dtype](
                Int(words[unsafe_offset=LayerWord.INPUTS]),
                Int(words[unsafe_offset=LayerWord.OUTPUTS]),
                Int(words[unsafe_offset=LayerWord.WEIGHT]),
                Int(words[unsafe_offset=LayerWord.BIAS]),
                Int(words[unsafe_offset=LayerWord.WEIGHT_GRAD]),
                Int(words[unsafe_offset=LayerWord.BIAS_GRAD]),
            )
        )
    if kind == LayerKind.RELU:
        return _visit_elementwise(visit, ReLU())
    if kind == LayerKind.LEAKY_RELU:
        return _visit_elementwise(visit, LeakyReLU(_option(words)))
    if kind == LayerKind.TANH:
        return _visit_elementwise(visit, Tanh())
    if kind == LayerKind.SIGMOID:
        return _visit_elementwise(visit, Sigmoid())
    if kind == LayerKind.SILU:
        return _visit_elementwise(visit, SiLU())
    if kind == LayerKind.GELU:
        return _visit_elementwise(visit, GELU())
    return _visit_elementwise(visit, TanhGELU())


@always_inline
def _visit_elementwise[
    dtype: DType, Function: Activation
](visit: _Visit[dtype], function: Function) -> Int:
    var features = Int(visit.words[unsafe_offset=LayerWord.INPUTS])
    return visit.run(Elementwise[dtype, Function](features, function))


@always_inline
def _option(words: Words) -> Float64:
    return words.unsafe_bitcast[Float64]()[unsafe_offset=LayerWord.OPTION]


@fieldwise_init
struct LayerTable[dtype: DType](ImplicitlyCopyable, Movable):
    """The layers of a network, in the order in which samples go through them.

    Parameters:
        dtype: The dtype of samples and parameters: float32 or float64.
    """

    var words: Words
    """The first layer, `LayerWord`."""
    var count: Int
    """The number of layers."""

    def kept(self, index: Int, block: Block) -> Int:
        """Counts what a layer keeps for the backward pass.

        Args:
            index: The layer.
            block: The largest block.

        Returns:
            The number of elements.
        """
        var words = self._layer(index)
        var nothing = words.unsafe_bitcast[Scalar[Self.dtype]]()
        return _visit(_Visit[Self.dtype](0, words, nothing, block))

    def forward(self, workspace: Elements[Self.dtype], block: Block):
        """Computes the outputs of a block.

        Args:
            workspace: Memory that holds the inputs.
            block: The samples.
        """
        for index in range(self.count):
            _ = _visit(
                _Visit[Self.dtype](1, self._layer(index), workspace, block)
            )

    def backward(self, workspace: Elements[Self.dtype], block: Block):
        """Computes the gradients of all parameters.

        Args:
            workspace: Memory that holds what the forward pass left, and the gradient of the
                outputs.
            block: The samples.
        """
        for index in range(self.count - 1, -1, -1):
            _ = _visit(
                _Visit[Self.dtype](2, self._layer(index), workspace, block)
            )

    def _layer(self, index: Int) -> Words:
        return self.words.unsafe_offset(index * LayerWord.END)


def evaluate_objective[
    dtype: DType
](
    kind: Int,
    option: Float64,
    outputs: Elements[dtype],
    features: Int,
    targets: Targets[dtype],
    grad: Elements[dtype],
    scale: Float64,
    block: Block,
) -> Outcome:
    """Computes the loss of a number, see `Objective.evaluate`.

    Parameters:
        dtype: Float32 or float64.

    Args:
        kind: One of `ObjectiveKind`.
        option: Its option.
        outputs: What the network said.
        features: Its features.
        targets: What it should be.
        grad: Where the gradient goes.
        scale: The factor of the gradient.
        block: The samples.

    Returns:
        The sums over the block.
    """
    if kind == ObjectiveKind.CROSS_ENTROPY:
        return CrossEntropy(option).evaluate(
            outputs, features, targets, grad, scale, block
        )
    if kind == ObjectiveKind.MEAN_SQUARED_ERROR:
        return MeanSquaredError(SquaredError()).evaluate(
            outputs, features, targets, grad, scale, block
        )
    if kind == ObjectiveKind.HUBER:
        return Huber(HuberError(option)).evaluate(
            outputs, features, targets, grad, scale, block
        )
    return BinaryCrossEntropy(LogisticError()).evaluate(
        outputs, features, targets, grad, scale, block
    )
