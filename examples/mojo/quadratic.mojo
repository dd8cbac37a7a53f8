"""Minimises f(x, y) = (x - 3)^2 + 10 (y + 1)^2 with AdamW, without Python.

Run it from the repository's root: `mojo run -I . examples/mojo/quadratic.mojo`.
"""

from shared.training.optimizers import AdamW, Optimizer, Parameter


def loss(point: List[Float32]) -> Float32:
    var x = point[0] - 3
    var y = point[1] + 1
    return x * x + 10 * y * y


def main() raises:
    var parameters: List[Parameter[DType.float32]] = []
    parameters.append(Parameter([Float32(0), Float32(0)]))
    var optimizer = Optimizer(AdamW(lr=0.1, weight_decay=0.0))

    for step in range(201):
        ref point = parameters[0]
        if step % 20 == 0:
            print(
                "step ",
                step,
                "  x ",
                point.value[0],
                "  y ",
                point.value[1],
                "  loss ",
                loss(point.value),
                sep="",
            )
        point.grad[0] = 2 * (point.value[0] - 3)
        point.grad[1] = 20 * (point.value[1] + 1)
        optimizer.step(parameters)
