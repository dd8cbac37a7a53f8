"""What a network is trained for: losses of blocks, with their gradients."""

from std.math import iota
from std.sys import simd_width_of

from ..core.exponential import exp, log, log1p
from ..core.memory import Elements, Words
from .block import Block
from .dataset import Dataset


@fieldwise_init
struct Targets[dtype: DType](ImplicitlyCopyable, Movable):
    """What the outputs of a block should be, for samples in an order.

    Parameters:
        dtype: The dtype of the network.
    """

    var labels: Words
    """The class of each sample of the data."""
    var values: Elements[Self.dtype]
    """The numbers of each sample of the data, sample by sample."""
    var order: Words
    """Which sample of the data each sample of the block is."""
    var weights: Int
    """Address of the weight of each sample of the data; 0 for none."""

    @always_inline
    def weights_of[
        width: Int
    ](self, first: Int, lanes: Int) -> SIMD[Self.dtype, width]:
        """Reads the weights of samples of the block.

        Parameters:
            width: The most samples.

        Args:
            first: The first sample.
            lanes: How many samples.

        Returns:
            Their weights; 1 where there is none.
        """
        var result = SIMD[Self.dtype, width](1)
        if self.weights != 0:
            var weights = Elements[Self.dtype](unsafe_from_address=self.weights)
            for i in range(lanes):
                var sample = Int(self.order[unsafe_offset=first + i])
                result[i] = weights[unsafe_offset=sample]
        return result


@fieldwise_init
struct Outcome(ImplicitlyCopyable, Movable):
    """What was measured."""

    var loss: Float64
    """The sum of the losses of single samples, each times its weight."""
    var correct: Int
    """How many samples have their highest output at their class."""


trait Objective(Deinitable, ImplicitlyCopyable, Movable):
    """The loss of a sample, and its gradient."""

    def check[
        dtype: DType
    ](self, data: Dataset[dtype], order: Span[Int64, _], features: Int) raises:
        """Checks that a network's outputs can be compared with data.

        Parameters:
            dtype: Float32 or float64.

        Args:
            data: The data.
            order: Which of its samples; each is one of them.
            features: Features of an output.

        Raises:
            Error: If they cannot.
        """
        ...

    def evaluate[
        dtype: DType
    ](
        self,
        outputs: Elements[dtype],
        features: Int,
        targets: Targets[dtype],
        grad: Elements[dtype],
        scale: Float64,
        block: Block,
    ) -> Outcome:
        """Computes weighted losses and the gradient of their sum times a factor.

        Parameters:
            dtype: Float32 or float64.

        Args:
            outputs: What the network said.
            features: Its features.
            targets: What it should be.
            grad: Where the gradient goes; it may be the outputs.
            scale: The factor of the gradient.
            block: The samples.

        Returns:
            The sums over the block.
        """
        ...


struct CrossEntropy(Objective):
    """`-log softmax(x)[t]`, with the part `smoothing` of the target spread over all classes."""

    var smoothing: Float64
    """The part that is spread, in [0, 1]."""

    def __init__(out self, smoothing: Float64 = 0):
        """Sets the smoothing.

        Args:
            smoothing: The part that is spread, in [0, 1].
        """
        self.smoothing = smoothing

    def check[
        dtype: DType
    ](self, data: Dataset[dtype], order: Span[Int64, _], features: Int) raises:
        """Checks that each sample has a class.

        Parameters:
            dtype: Float32 or float64.

        Args:
            data: The data.
            order: Which of its samples; each is one of them.
            features: The number of classes.

        Raises:
            Error: If one has none, or one that is not in `[0, features)`.
        """
        if len(data.labels) != data.samples:
            raise Error("the data must have a label for each sample")
        for sample in order:
            var label = data.labels[Int(sample)]
            if not 0 <= Int(label) < features:
                raise Error(
                    "labels[",
                    sample,
                    "] must be in [0, ",
                    features,
                    "), got ",
                    label,
                )

    def evaluate[
        dtype: DType
    ](
        self,
        outputs: Elements[dtype],
        features: Int,
        targets: Targets[dtype],
        grad: Elements[dtype],
        scale: Float64,
        block: Block,
    ) -> Outcome:
        """Computes weighted losses and the gradient of their sum times a factor.

        Parameters:
            dtype: Float32 or float64.

        Args:
            outputs: What the network said, a score for each class.
            features: The number of classes.
            targets: The classes, all of them valid.
            grad: Where the gradient goes; it may be the outputs.
            scale: The factor of the gradient.
            block: The samples.

        Returns:
            The sums over the block.
        """
        comptime width = simd_width_of[dtype]()
        comptime Lanes = SIMD[dtype, width]
        var outcome = Outcome(0, 0)
        var spread = Lanes((self.smoothing / Float64(features)).cast[dtype]())
        var rest = Lanes((1 - self.smoothing).cast[dtype]())
        for s in range(0, block.samples, width):
            var lanes = min(width, block.samples - s)
            var weights = targets.weights_of[width](s, lanes)
            var factor = weights * scale.cast[dtype]()
            var classes = SIMD[DType.int64, width](0)
            var own = Lanes(0)
            for i in range(lanes):
                var sample = Int(targets.order[unsafe_offset=s + i])
                var label = targets.labels[unsafe_offset=sample]
                classes[i] = label
                own[i] = outputs[
                    unsafe_offset=Int(label) * block.stride + s + i
                ]
            var highest = outputs.unsafe_load[width=width](s)
            var best = SIMD[DType.int64, width](0)
            var total = Lanes(highest)
            for c in range(1, features):
                var x = outputs.unsafe_load[width=width](c * block.stride + s)
                var is_higher = x.gt(highest)
                highest = is_higher.select(x, highest)
                best = is_higher.select(SIMD[DType.int64, width](c), best)
                total += x
            var sum = Lanes(0)
            for c in range(features):
                var at = c * block.stride + s
                var e = exp(outputs.unsafe_load[width=width](at) - highest)
                grad.unsafe_store[width=width](at, e)
                sum += e
            var is_sample = iota[DType.int32, width]().lt(Int32(lanes))
            var inverse = 1 / sum
            for c in range(features):
                var at = c * block.stride + s
                var p = grad.unsafe_load[width=width](at) * inverse
                var is_own = classes.eq(SIMD[DType.int64, width](c))
                var q = spread + is_own.select(rest, Lanes(0))
                grad.unsafe_store[width=width](
                    at, is_sample.select((p - q) * factor, Lanes(0))
                )
            var normaliser = log(sum) + highest
            var losses = rest * (normaliser - own) + spread * (
                Lanes(features) * normaliser - total
            )
            outcome.loss += (
                is_sample.select(losses * weights, Lanes(0))
                .cast[DType.float64]()
                .reduce_add()
            )
            outcome.correct += Int(
                (is_sample & best.eq(classes)).cast[DType.int32]().reduce_add()
            )
        return outcome


trait PointLoss(Deinitable, ImplicitlyCopyable, Movable):
    """The loss of one number, on SIMD lanes."""

    def value[
        dtype: DType, width: Int
    ](self, x: SIMD[dtype, width], t: SIMD[dtype, width]) -> SIMD[dtype, width]:
        """Computes the loss.

        Parameters:
            dtype: Float32 or float64.
            width: How many lanes.

        Args:
            x: The outputs.
            t: What they should be.

        Returns:
            The losses.
        """
        ...

    def derivative[
        dtype: DType, width: Int
    ](self, x: SIMD[dtype, width], t: SIMD[dtype, width]) -> SIMD[dtype, width]:
        """Computes the derivative for the output.

        Parameters:
            dtype: Float32 or float64.
            width: How many lanes.

        Args:
            x: The outputs.
            t: What they should be.

        Returns:
            The derivatives.
        """
        ...


@fieldwise_init
struct PointObjective[Loss: PointLoss](Objective):
    """The mean of the losses of a sample's numbers.

    Parameters:
        Loss: The loss of one number.
    """

    var loss: Self.Loss
    """The loss of one number."""

    def check[
        dtype: DType
    ](self, data: Dataset[dtype], order: Span[Int64, _], features: Int) raises:
        """Checks that each sample has numbers.

        Parameters:
            dtype: Float32 or float64.

        Args:
            data: The data.
            order: Not read.
            features: Numbers of a sample.

        Raises:
            Error: If they are not as many.
        """
        if len(data.values) != data.samples * features:
            raise Error(
                "the data must have ",
                features,
                " values for each sample, got ",
                len(data.values),
                " for ",
                data.samples,
            )

    def evaluate[
        dtype: DType
    ](
        self,
        outputs: Elements[dtype],
        features: Int,
        targets: Targets[dtype],
        grad: Elements[dtype],
        scale: Float64,
        block: Block,
    ) -> Outcome:
        """Computes weighted losses and the gradient of their sum times a factor.

        Parameters:
            dtype: Float32 or float64.

        Args:
            outputs: What the network said.
            features: Numbers of a sample.
            targets: What they should be.
            grad: Where the gradient goes; it may be the outputs.
            scale: The factor of the gradient.
            block: The samples.

        Returns:
            The sums over the block.
        """
        comptime width = simd_width_of[dtype]()
        comptime Lanes = SIMD[dtype, width]
        var sum = Float64(0)
        for s in range(0, block.samples, width):
            var lanes = min(width, block.samples - s)
            var weights = targets.weights_of[width](s, lanes)
            var factor = weights * (scale / Float64(features)).cast[dtype]()
            var is_sample = iota[DType.int32, width]().lt(Int32(lanes))
            for f in range(features):
                var t = Lanes(0)
                for i in range(lanes):
                    var sample = Int(targets.order[unsafe_offset=s + i])
                    t[i] = targets.values[unsafe_offset=sample * features + f]
                var at = f * block.stride + s
                var x = outputs.unsafe_load[width=width](at)
                var losses = is_sample.select(
                    self.loss.value(x, t) * weights, Lanes(0)
                )
                sum += losses.cast[DType.float64]().reduce_add()
                grad.unsafe_store[width=width](
                    at,
                    is_sample.select(
                        self.loss.derivative(x, t) * factor, Lanes(0)
                    ),
                )
        return Outcome(sum / Float64(features), 0)


@fieldwise_init
struct SquaredError(PointLoss):
    """`(x - t)^2`."""

    @always_inline
    def value[
        dtype: DType, width: Int
    ](self, x: SIMD[dtype, width], t: SIMD[dtype, width]) -> SIMD[dtype, width]:
        """Computes the loss.

        Parameters:
            dtype: Float32 or float64.
            width: How many lanes.

        Args:
            x: The outputs.
            t: What they should be.

        Returns:
            The losses.
        """
        return (x - t) * (x - t)

    @always_inline
    def derivative[
        dtype: DType, width: Int
    ](self, x: SIMD[dtype, width], t: SIMD[dtype, width]) -> SIMD[dtype, width]:
        """Computes the derivative for the output.

        Parameters:
            dtype: Float32 or float64.
            width: How many lanes.

        Args:
            x: The outputs.
            t: What they should be.

        Returns:
            The derivatives.
        """
        return 2 * (x - t)


@fieldwise_init
struct HuberError(PointLoss):
    """`0.5 * e^2` for an error up to `delta`, `delta * (|e| - 0.5 * delta)` beyond."""

    var delta: Float64
    """Where the loss becomes linear, above 0."""

    @always_inline
    def value[
        dtype: DType, width: Int
    ](self, x: SIMD[dtype, width], t: SIMD[dtype, width]) -> SIMD[dtype, width]:
        """Computes the loss.

        Parameters:
            dtype: Float32 or float64.
            width: How many lanes.

        Args:
            x: The outputs.
            t: What they should be.

        Returns:
            The losses.
        """
        var delta = self.delta.cast[dtype]()
        var size = abs(x - t)
        return size.le(delta).select(
            0.5 * size * size, delta * (size - 0.5 * delta)
        )

    @always_inline
    def derivative[
        dtype: DType, width: Int
    ](self, x: SIMD[dtype, width], t: SIMD[dtype, width]) -> SIMD[dtype, width]:
        """Computes the derivative for the output.

        Parameters:
            dtype: Float32 or float64.
            width: How many lanes.

        Args:
            x: The outputs.
            t: What they should be.

        Returns:
            The derivatives.
        """
        var delta = SIMD[dtype, width](self.delta.cast[dtype]())
        var error = x - t
        var far = error.gt(0).select(delta, -delta)
        return abs(error).le(delta).select(error, far)


@fieldwise_init
struct LogisticError(PointLoss):
    """`log(1 + exp(x)) - t * x`, the cross-entropy of a probability t and sigmoid(x)."""

    @always_inline
    def value[
        dtype: DType, width: Int
    ](self, x: SIMD[dtype, width], t: SIMD[dtype, width]) -> SIMD[dtype, width]:
        """Computes the loss.

        Parameters:
            dtype: Float32 or float64.
            width: How many lanes.

        Args:
            x: The outputs.
            t: What they should be, in [0, 1].

        Returns:
            The losses.
        """
        return max(x, SIMD[dtype, width](0)) - x * t + log1p(exp(-abs(x)))

    @always_inline
    def derivative[
        dtype: DType, width: Int
    ](self, x: SIMD[dtype, width], t: SIMD[dtype, width]) -> SIMD[dtype, width]:
        """Computes the derivative for the output.

        Parameters:
            dtype: Float32 or float64.
            width: How many lanes.

        Args:
            x: The outputs.
            t: What they should be.

        Returns:
            The derivatives.
        """
        return 1 / (1 + exp(-x)) - t


@fieldwise_init
struct PoissonError(PointLoss):
    """`exp(x) - t * x`, what depends on x in the likelihood of a count t of the mean exp(x)."""

    @always_inline
    def value[
        dtype: DType, width: Int
    ](self, x: SIMD[dtype, width], t: SIMD[dtype, width]) -> SIMD[dtype, width]:
        """Computes the loss.

        Parameters:
            dtype: Float32 or float64.
            width: How many lanes.

        Args:
            x: The outputs, logarithms of means.
            t: The counts, >= 0.

        Returns:
            The losses.
        """
        return exp(x) - t * x

    @always_inline
    def derivative[
        dtype: DType, width: Int
    ](self, x: SIMD[dtype, width], t: SIMD[dtype, width]) -> SIMD[dtype, width]:
        """Computes the derivative for the output.

        Parameters:
            dtype: Float32 or float64.
            width: How many lanes.

        Args:
            x: The outputs, logarithms of means.
            t: The counts.

        Returns:
            The derivatives.
        """
        return exp(x) - t


comptime MeanSquaredError = PointObjective[SquaredError]
"""The mean of squared errors."""

comptime Huber = PointObjective[HuberError]
"""The mean of Huber's losses (Huber, 1964)."""

comptime BinaryCrossEntropy = PointObjective[LogisticError]
"""The mean of binary cross-entropies of logits."""

comptime Poisson = PointObjective[PoissonError]
"""The mean of Poisson losses of logarithms of means."""
