"""Networks whose layers are known at run time only: a table of words.

The caller owns the table and all memory that it points to, so that nothing is allocated here.
`python/hotloop/native/program.py` fills it and repeats these numbers; a test compares the two.
"""

from ..core.memory import Elements, Words
from ..core.norm import sum_range
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
from .batch_norm import BatchNorm
from .block import Block
from .conv2d import Conv2d
from .dropout import Dropout
from .embedding import Embedding
from .layer import Layer
from .layer_norm import LayerNorm
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
    Poisson,
    PoissonError,
    SquaredError,
    Targets,
)
from .pooling import AvgPool2d, MaxPool2d
from .shortcut import ShortcutEnd, ShortcutStart
from .window import Window


struct LayerKind:
    """Numbers the layers."""

    comptime LINEAR = 0
    """`Linear`; its option is 1 if what it keeps is there already."""
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
    comptime LAYER_NORM = 8
    """`LayerNorm`; its option is eps."""
    comptime BATCH_NORM = 9
    """`BatchNorm`; its option is eps."""
    comptime DROPOUT = 10
    """`Dropout`; its option is p."""
    comptime EMBEDDING = 11
    """`Embedding`."""
    comptime CONV2D = 12
    """`Conv2d`."""
    comptime MAX_POOL2D = 13
    """`MaxPool2d`."""
    comptime AVG_POOL2D = 14
    """`AvgPool2d`; its option is 1 if padding counts, otherwise 0."""
    comptime SHORTCUT_START = 15
    """`ShortcutStart`."""
    comptime SHORTCUT_END = 16
    """`ShortcutEnd`."""
    comptime END = 17
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
    comptime MEAN = 13
    """Address of the running means, or 0."""
    comptime VARIANCE = 14
    """Address of the running variances, or 0."""
    comptime BATCHES = 15
    """Address of the number of batches in them, or 0."""
    comptime MOMENTUM = 16
    """A float64, the weight of a new batch in them; negative for a mean of all."""
    comptime CHANNELS = 17
    """Channels of an input."""
    comptime HEIGHT = 18
    """Rows of an image."""
    comptime WIDTH = 19
    """Columns of an image."""
    comptime OUT_HEIGHT = 20
    """Places of a window from top to bottom."""
    comptime OUT_WIDTH = 21
    """Places of a window from left to right."""
    comptime KERNEL_HEIGHT = 22
    """Rows of a window."""
    comptime KERNEL_WIDTH = 23
    """Columns of a window."""
    comptime STRIDE_HEIGHT = 24
    """Rows from a place to the one below."""
    comptime STRIDE_WIDTH = 25
    """Columns from a place to the next."""
    comptime PADDING_HEIGHT = 26
    """Rows above an image."""
    comptime PADDING_WIDTH = 27
    """Columns left of an image."""
    comptime ENTRIES = 28
    """Rows of an embedding."""
    comptime PADDING_INDEX = 29
    """The row that gets no gradient, or -1."""
    comptime STREAM = 30
    """Tells the dropouts from each other."""
    comptime END = 31
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
    comptime POISSON = 4
    """`Poisson`."""
    comptime END = 5
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
    var inputs = _word(words, LayerWord.INPUTS)
    var outputs = _word(words, LayerWord.OUTPUTS)
    var weight = _word(words, LayerWord.WEIGHT)
    var bias = _word(words, LayerWord.BIAS)
    var weight_grad = _word(words, LayerWord.WEIGHT_GRAD)
    var bias_grad = _word(words, LayerWord.BIAS_GRAD)
    if kind == LayerKind.LINEAR:
        return visit.run(
            Linear[dtype](
                inputs,
                outputs,
                weight,
                bias,
                weight_grad,
                bias_grad,
                keeps=_option(words) == 0,
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
    if kind == LayerKind.GELU_TANH:
        return _visit_elementwise(visit, TanhGELU())
    if kind == LayerKind.LAYER_NORM:
        return visit.run(
            LayerNorm[dtype](
                inputs, _option(words), weight, bias, weight_grad, bias_grad
            )
        )
    if kind == LayerKind.BATCH_NORM:
        var channels = _word(words, LayerWord.CHANNELS)
        return visit.run(
            BatchNorm[dtype](
                channels,
                inputs // channels,
                _option(words),
                words.unsafe_bitcast[Float64]()[
                    unsafe_offset=LayerWord.MOMENTUM
                ],
                weight,
                bias,
                weight_grad,
                bias_grad,
                _word(words, LayerWord.MEAN),
                _word(words, LayerWord.VARIANCE),
                _word(words, LayerWord.BATCHES),
            )
        )
    if kind == LayerKind.DROPOUT:
        return visit.run(
            Dropout[dtype](
                inputs, _option(words), _word(words, LayerWord.STREAM)
            )
        )
    if kind == LayerKind.EMBEDDING:
        return visit.run(
            Embedding[dtype](
                inputs,
                _word(words, LayerWord.ENTRIES),
                outputs // inputs,
                _word(words, LayerWord.PADDING_INDEX),
                weight,
                weight_grad,
            )
        )
    if kind == LayerKind.SHORTCUT_START:
        return visit.run(ShortcutStart[dtype](inputs))
    if kind == LayerKind.SHORTCUT_END:
        return visit.run(ShortcutEnd[dtype](inputs))
    var window = Window(
        _word(words, LayerWord.CHANNELS),
        _word(words, LayerWord.HEIGHT),
        _word(words, LayerWord.WIDTH),
        _word(words, LayerWord.OUT_HEIGHT),
        _word(words, LayerWord.OUT_WIDTH),
        _word(words, LayerWord.KERNEL_HEIGHT),
        _word(words, LayerWord.KERNEL_WIDTH),
        _word(words, LayerWord.STRIDE_HEIGHT),
        _word(words, LayerWord.STRIDE_WIDTH),
        _word(words, LayerWord.PADDING_HEIGHT),
        _word(words, LayerWord.PADDING_WIDTH),
    )
    if kind == LayerKind.CONV2D:
        return visit.run(
            Conv2d[dtype](
                window,
                outputs // window.places(),
                weight,
                bias,
                weight_grad,
                bias_grad,
            )
        )
    if kind == LayerKind.MAX_POOL2D:
        return visit.run(MaxPool2d[dtype](window))
    return visit.run(AvgPool2d[dtype](window, _option(words) != 0))


@always_inline
def _visit_elementwise[
    dtype: DType, Function: Activation
](visit: _Visit[dtype], function: Function) -> Int:
    var features = Int(visit.words[unsafe_offset=LayerWord.INPUTS])
    return visit.run(Elementwise[dtype, Function](features, function))


@always_inline
def _word(words: Words, index: Int) -> Int:
    return Int(words[unsafe_offset=index])


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

    def squared_weights(self) -> Float64:
        """Adds up the squares of the weights of all linear layers.

        Returns:
            The sum, without those of biases.
        """
        var sum = Float64(0)
        for index in range(self.count):
            var words = self._layer(index)
            if _word(words, LayerWord.KIND) == LayerKind.LINEAR:
                var count = _word(words, LayerWord.INPUTS) * _word(
                    words, LayerWord.OUTPUTS
                )
                sum += sum_range[Self.dtype](
                    _word(words, LayerWord.WEIGHT), 0, count, count
                )
        return sum

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
    if kind == ObjectiveKind.POISSON:
        return Poisson(PoissonError()).evaluate(
            outputs, features, targets, grad, scale, block
        )
    return BinaryCrossEntropy(LogisticError()).evaluate(
        outputs, features, targets, grad, scale, block
    )
