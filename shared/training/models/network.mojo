"""A model with all the memory that it works in."""

from std.random import randn_float64, random_float64, seed as set_seed

from ..core.matmul import Matrix, padded, transpose
from ..core.memory import Elements, words_at
from ..optimizers import Parameter
from .block import Block
from .dataset import Dataset
from .layer import Layer, ParameterSpec
from .objectives import Objective, Outcome, Targets


struct Network[Model: Layer](Movable):
    """A model, its parameters and its workspace.

    Parameters:
        Model: The type of the model.
    """

    comptime dtype = Self.Model.dtype
    """The dtype of samples and parameters."""

    var model: Self.Model
    """The model."""
    var parameters: List[Parameter[Self.dtype]]
    """Its parameters, in its order."""
    var buffers: List[List[Scalar[Self.dtype]]]
    """What its layers write in training, such as running means, in its order."""
    var batch_size: Int
    """The most samples of a batch."""
    var seed: Int
    """Where the random numbers begin."""
    var _workspace: List[Scalar[Self.dtype]]

    def __init__(
        out self, var model: Self.Model, *, batch_size: Int, seed: Int = 0
    ) raises:
        """Draws parameters as torch does, though not its numbers.

        Args:
            model: The model.
            batch_size: The most samples of a batch, at least 1.
            seed: Where the random numbers begin.

        Raises:
            Error: If the batch size is below 1.
        """
        if batch_size < 1:
            raise Error("batch_size must be at least 1, got ", batch_size)
        self.model = model^
        self.batch_size = batch_size
        self.seed = seed
        self.parameters = []
        self.buffers = []
        self._workspace = []
        set_seed(seed)
        for i in range(self.model.parameters()):
            self.parameters.append(
                Parameter(_draw[Self.dtype](self.model.parameter(i)))
            )
        for i in range(self.model.buffers()):
            self.buffers.append(_draw[Self.dtype](self.model.buffer(i)))
        var stride = padded[Self.dtype](batch_size)
        var size = stride * (
            2 * self.model.inputs() + 2 * self.model.outputs()
        ) + self.model.kept(stride)
        # Vectors are read at any address; no more is needed.
        self._workspace = List[Scalar[Self.dtype]](length=size, fill=0)
        self.bind()

    def bind(mut self):
        """Tells the model where its tensors lie; needed when one was replaced."""
        for i in range(len(self.parameters)):
            ref parameter = self.parameters[i]
            self.model.bind(
                i,
                Int(parameter.value.unsafe_ptr()),
                Int(parameter.grad.unsafe_ptr()),
            )
        for i in range(len(self.buffers)):
            self.model.bind_buffer(i, Int(self.buffers[i].unsafe_ptr()))

    def forward(
        mut self,
        data: Dataset[Self.dtype],
        order: Span[Int64, _],
        is_training: Bool = False,
        step: Int = 0,
    ) raises -> Matrix[Self.dtype]:
        """Computes the outputs of some samples.

        Args:
            data: The data.
            order: Which of its samples, at least one and at most `batch_size`.
            is_training: Whether dropout drops, and a backward pass follows.
            step: How many batches came before.

        Returns:
            The outputs, features x samples, until the next call.

        Raises:
            Error: If there are too many samples, they have other features, or are none of the data.
        """
        self._check(data, order)
        self._forward(data, order, is_training, step)
        return self.outputs()

    def outputs(mut self) -> Matrix[Self.dtype]:
        """Looks at the outputs of the last samples.

        Returns:
            The outputs, features x samples, until the next call of another method.
        """
        return Matrix(self._place(2), padded[Self.dtype](self.batch_size), 1)

    def gradient[
        Loss: Objective
    ](
        mut self,
        data: Dataset[Self.dtype],
        order: Span[Int64, _],
        loss: Loss,
        step: Int = 0,
    ) raises -> Outcome:
        """Computes the gradient of the mean loss of some samples, into `parameters`.

        Parameters:
            Loss: The type of the loss.

        Args:
            data: The data.
            order: Which of its samples.
            loss: The loss.
            step: How many batches came before.

        Returns:
            The sums over the samples.

        Raises:
            Error: If the data do not fit the model or the loss.
        """
        var outcome = self._measure(data, order, loss, True, step)
        self.model.backward(
            self._place(1),
            self._place(2),
            self._place(4),
            self._place(3),
            self._place(0),
            False,
            self._block(len(order), True, step),
        )
        return outcome

    def evaluate[
        Loss: Objective
    ](
        mut self, data: Dataset[Self.dtype], order: Span[Int64, _], loss: Loss
    ) raises -> Outcome:
        """Measures the loss of some samples.

        Parameters:
            Loss: The type of the loss.

        Args:
            data: The data.
            order: Which of its samples.
            loss: The loss.

        Returns:
            The sums over the samples.

        Raises:
            Error: If the data do not fit the model or the loss.
        """
        return self._measure(data, order, loss, False, 0)

    def _measure[
        Loss: Objective
    ](
        mut self,
        data: Dataset[Self.dtype],
        order: Span[Int64, _],
        loss: Loss,
        is_training: Bool,
        step: Int,
    ) raises -> Outcome:
        self._check(data, order)
        loss.check(data, order, self.model.outputs())
        self._forward(data, order, is_training, step)
        return loss.evaluate[Self.dtype](
            self._place(2),
            self.model.outputs(),
            Targets[Self.dtype](
                words_at(Int(data.labels.unsafe_ptr())),
                Elements[Self.dtype](
                    unsafe_from_address=Int(data.values.unsafe_ptr())
                ),
                words_at(Int(order.unsafe_ptr())),
                weights=0,
            ),
            self._place(3),
            1 / Float64(len(order)),
            self._block(len(order), is_training, step),
        )

    def _check(self, data: Dataset[Self.dtype], order: Span[Int64, _]) raises:
        if data.inputs() != self.model.inputs():
            raise Error(
                "samples must have ",
                self.model.inputs(),
                " features, got ",
                data.inputs(),
            )
        if not 1 <= len(order) <= self.batch_size:
            raise Error(
                "order must have 1 to ",
                self.batch_size,
                " samples, got ",
                len(order),
            )
        for sample in order:
            if not 0 <= Int(sample) < data.samples:
                raise Error(
                    "order must hold numbers in [0, ",
                    data.samples,
                    "), got ",
                    sample,
                )

    def _forward(
        mut self,
        data: Dataset[Self.dtype],
        order: Span[Int64, _],
        is_training: Bool,
        step: Int,
    ):
        var block = self._block(len(order), is_training, step)
        var rows = self._place(0)
        var inputs = self.model.inputs()
        for s in range(len(order)):
            var start = Int(order[s]) * inputs
            for f in range(inputs):
                rows[unsafe_offset=s * inputs + f] = data.features[start + f]
        transpose[Self.dtype](
            Matrix(self._place(1), block.stride, 1),
            Matrix(rows, inputs, 1),
            len(order),
            inputs,
        )
        self.model.forward(
            self._place(1), self._place(2), self._place(4), block
        )

    def _block(self, samples: Int, is_training: Bool, step: Int) -> Block:
        return Block(
            samples=samples,
            stride=padded[Self.dtype](self.batch_size),
            first=0,
            step=step,
            is_training=is_training,
            accumulates=False,
            grad_shift=0,
            seed=self.seed,
        )

    def _place(mut self, index: Int) -> Elements[Self.dtype]:
        # Samples, their features, outputs, the gradient of those, and the model's own.
        var stride = padded[Self.dtype](self.batch_size)
        var inputs = self.model.inputs() * stride
        var outputs = self.model.outputs() * stride
        var starts = [
            0,
            inputs,
            2 * inputs,
            2 * inputs + outputs,
            2 * inputs + 2 * outputs,
        ]
        return Elements[Self.dtype](
            unsafe_from_address=Int(self._workspace.unsafe_ptr())
        ).unsafe_offset(starts[index])


def _draw[dtype: DType](spec: ParameterSpec) -> List[Scalar[dtype]]:
    var value = List[Scalar[dtype]](length=spec.size(), fill=0)
    for i in range(len(value)):
        var number = -spec.bound
        if spec.deviation > 0:
            number = randn_float64(0, spec.deviation)
        elif spec.bound > 0:
            number = random_float64(-spec.bound, spec.bound)
        if i // spec.columns != spec.zeros:
            value[i] = number.cast[dtype]()
    return value^
