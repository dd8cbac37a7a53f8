"""Adam and SGD on plain Float64 lists, and the gradients that tests feed them."""

from std.math import sin, sqrt
from std.testing import assert_almost_equal

from shared.training.core import UpdateRule
from shared.training.optimizers import Optimizer, Parameter

comptime LENGTH = 37
"""Elements of a test's parameter: whole vectors of any width, and a rest."""


trait Reference(Deinitable, Movable):
    """One optimizer's step in plain arithmetic."""

    def step(
        mut self, mut param: List[Float64], grad: List[Float64], step: Int
    ):
        """Updates `param`; `step` counts from 1."""
        ...


struct AdamReference(Reference):
    """Adam after Kingma and Ba, algorithm 1, with torch's weight decays."""

    var lr: Float64
    var beta1: Float64
    var beta2: Float64
    var eps: Float64
    var weight_decay: Float64
    var amsgrad: Bool
    var decoupled: Bool
    var sign: Float64
    var first: List[Float64]
    var second: List[Float64]
    var largest: List[Float64]

    def __init__(
        out self,
        *,
        lr: Float64 = 1e-3,
        beta1: Float64 = 0.9,
        beta2: Float64 = 0.999,
        eps: Float64 = 1e-8,
        weight_decay: Float64 = 0,
        amsgrad: Bool = False,
        decoupled: Bool = False,
        maximize: Bool = False,
    ):
        self.lr = lr
        self.beta1 = beta1
        self.beta2 = beta2
        self.eps = eps
        self.weight_decay = weight_decay
        self.amsgrad = amsgrad
        self.decoupled = decoupled
        self.sign = -1.0 if maximize else 1.0
        self.first = List[Float64](length=LENGTH, fill=0)
        self.second = List[Float64](length=LENGTH, fill=0)
        self.largest = List[Float64](length=LENGTH, fill=0)

    def step(
        mut self, mut param: List[Float64], grad: List[Float64], step: Int
    ):
        var power1 = 1.0
        var power2 = 1.0
        for _ in range(step):
            power1 *= self.beta1
            power2 *= self.beta2
        for i in range(len(param)):
            var g = self.sign * grad[i]
            if self.decoupled:
                param[i] *= 1 - self.lr * self.weight_decay
            else:
                g += self.weight_decay * param[i]
            self.first[i] = self.beta1 * self.first[i] + (1 - self.beta1) * g
            self.second[i] = (
                self.beta2 * self.second[i] + (1 - self.beta2) * g * g
            )
            self.largest[i] = max(self.largest[i], self.second[i])
            var v = self.largest[i] if self.amsgrad else self.second[i]
            param[i] -= (
                self.lr
                * (self.first[i] / (1 - power1))
                / (sqrt(v / (1 - power2)) + self.eps)
            )


struct SGDReference(Reference):
    """SGD as the documentation of `torch.optim.SGD` writes it."""

    var lr: Float64
    var momentum: Float64
    var dampening: Float64
    var weight_decay: Float64
    var nesterov: Bool
    var sign: Float64
    var buffer: List[Float64]

    def __init__(
        out self,
        *,
        lr: Float64 = 1e-3,
        momentum: Float64 = 0,
        dampening: Float64 = 0,
        weight_decay: Float64 = 0,
        nesterov: Bool = False,
        maximize: Bool = False,
    ):
        self.lr = lr
        self.momentum = momentum
        self.dampening = dampening
        self.weight_decay = weight_decay
        self.nesterov = nesterov
        self.sign = -1.0 if maximize else 1.0
        self.buffer = List[Float64](length=LENGTH, fill=0)

    def step(
        mut self, mut param: List[Float64], grad: List[Float64], step: Int
    ):
        for i in range(len(param)):
            var g = self.sign * grad[i] + self.weight_decay * param[i]
            if self.momentum != 0:
                if step == 1:
                    self.buffer[i] = g
                else:
                    self.buffer[i] = (
                        self.momentum * self.buffer[i]
                        + (1 - self.dampening) * g
                    )
                if self.nesterov:
                    g += self.momentum * self.buffer[i]
                else:
                    g = self.buffer[i]
            param[i] -= self.lr * g


def one_parameter[
    dtype: DType
](var values: List[Scalar[dtype]]) -> List[Parameter[dtype]]:
    """Makes the list that an optimizer steps."""
    var parameters: List[Parameter[dtype]] = []
    parameters.append(Parameter[dtype](values^))
    return parameters^


def gradient(index: Int, step: Int) -> Float64:
    """Gives a gradient whose size and sign change from step to step."""
    return sin(Float64(3 * index + 5 * step)) * Float64(1 + (index + step) % 4)


def check_against_reference[
    Rule: UpdateRule, Plain: Reference, //, dtype: DType = DType.float64
](rule: Rule, var reference: Plain, *, tolerance: Float64 = 1e-13) raises:
    """Compares twelve steps with plain arithmetic.

    The default tolerance, relative to numbers near 1, allows some hundred
    roundings of float64.
    """
    var expected = [sin(Float64(7 * i)) for i in range(LENGTH)]
    var parameters = one_parameter[dtype](
        [Scalar[dtype](value) for value in expected]
    )
    var optimizer = Optimizer[Rule, dtype](rule)
    for step in range(1, 13):
        var grad = [gradient(i, step) for i in range(LENGTH)]
        for i in range(LENGTH):
            parameters[0].grad[i] = Scalar[dtype](grad[i])
        reference.step(expected, grad, step)
        optimizer.step(parameters)
        for i in range(LENGTH):
            assert_almost_equal(
                Float64(parameters[0].value[i]),
                expected[i],
                String(t"element {i} after step {step}"),
                atol=tolerance,
                rtol=tolerance,
            )


def check_golden[
    Rule: UpdateRule, //
](rule: Rule, expected: List[Float64]) raises:
    """Compares three steps with torch's digits, from `[1, -2]` at lr 0.1."""
    var parameters = one_parameter[DType.float64]([1, -2])
    var optimizer = Optimizer[Rule, DType.float64](rule)
    var first: List[Float64] = [0.5, -1, 0.1]
    var second: List[Float64] = [-0.25, 0.75, 0.1]
    for step in range(3):
        parameters[0].grad[0] = first[step]
        parameters[0].grad[1] = second[step]
        optimizer.step(parameters)
    for i in range(2):
        assert_almost_equal(
            parameters[0].value[i], expected[i], atol=1e-14, rtol=0
        )


def check_five_steps[
    Rule: UpdateRule, //
](rule: Rule, expected: List[Float64]) raises:
    """Compares five steps with the digits of the Python twin, from `[1, -2, 0.5]`.

    The tolerance allows sums in another order.
    """
    var parameters = one_parameter[DType.float64]([1, -2, 0.5])
    var optimizer = Optimizer[Rule, DType.float64](rule)
    var first: List[Float64] = [0.5, -1, 0.1, 2, 0.3]
    var second: List[Float64] = [-0.25, 0.75, 0.1, -1, 0.4]
    var third: List[Float64] = [1, 0.5, -2, 0.25, -0.5]
    for step in range(5):
        parameters[0].grad = [first[step], second[step], third[step]]
        optimizer.step(parameters)
    for i in range(3):
        assert_almost_equal(
            parameters[0].value[i], expected[i], atol=1e-14, rtol=0
        )


def minimum[
    Rule: UpdateRule, //, dtype: DType = DType.float32
](rule: Rule, steps: Int) raises -> Float64:
    """Descends `sum (i + 1) (x_i - 1)^2 / LENGTH` from 0."""
    var parameters = one_parameter[dtype](
        List[Scalar[dtype]](length=LENGTH, fill=0)
    )
    var optimizer = Optimizer[Rule, dtype](rule)
    for _ in range(steps):
        ref parameter = parameters[0]
        for i in range(LENGTH):
            parameter.grad[i] = (
                2 * Scalar[dtype](i + 1) * (parameter.value[i] - 1) / LENGTH
            )
        optimizer.step(parameters)
    var loss = 0.0
    for i in range(LENGTH):
        var distance = Float64(parameters[0].value[i]) - 1
        loss += Float64(i + 1) * distance * distance / LENGTH
    return loss
