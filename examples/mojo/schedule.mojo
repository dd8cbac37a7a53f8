"""Warms up, trains and anneals: AdamW with a schedule, without Python.

Run it from the repository's root: `mojo run -I . examples/mojo/schedule.mojo`.
"""

from shared.training.optimizers import AdamW, Optimizer, Parameter
from shared.training.schedulers import Cosine, Scheduler, Warmup


def main() raises:
    comptime updates = 200
    var parameters: List[Parameter[DType.float32]] = []
    parameters.append(Parameter([Float32(5), Float32(-3)]))
    var optimizer = Optimizer(AdamW(lr=0.3, weight_decay=0.0))
    var schedule = Warmup["cosine"](20).then(Cosine(updates - 20), at=20)
    var scheduler = Scheduler(schedule^, base_lr=optimizer.learning_rate())

    scheduler.start(optimizer)
    for step in range(updates):
        ref point = parameters[0]
        if step % 20 == 0 or step == updates - 1:
            print(
                "step ",
                step,
                "  lr ",
                optimizer.learning_rate(),
                "  x ",
                point.value[0],
                "  y ",
                point.value[1],
                sep="",
            )
        point.grad[0] = 2 * (point.value[0] - 3)
        point.grad[1] = 20 * (point.value[1] + 1)
        optimizer.step(parameters)
        scheduler.after_update(optimizer)
