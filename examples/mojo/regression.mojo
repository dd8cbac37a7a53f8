"""Fits a noisy curve, with warm-up and a cosine for the learning rate, without Python.

Run it from the repository's root: `mojo run -I . examples/mojo/regression.mojo`.
"""

from std.math import sin
from std.random import randn_float64, random_float64, seed

from shared.training.callbacks import Action, Callback, Progress
from shared.training.loops import OfValues, Trainer
from shared.training.metrics import R2Score
from shared.training.models import (
    Dataset,
    Elementwise,
    Linear,
    MeanSquaredError,
    Network,
    Sequential,
    SquaredError,
    Tanh,
)
from shared.training.optimizers import AdamW
from shared.training.schedulers import Cosine, Scheduler, Warmup

comptime dtype = DType.float32
comptime SAMPLES = 512
comptime BATCH = 32
comptime EPOCHS = 40
comptime NOISE = 0.1


@fieldwise_init
struct PrintRates(Callback):
    """Prints the losses, R2 and the learning rate of each epoch."""

    def on_epoch_end(mut self, progress: Progress) raises -> Action:
        print(
            "epoch ",
            progress.epoch + 1,
            "  loss ",
            round(progress.loss, 4),
            "  val_loss ",
            round(progress.val_loss, 4),
            "  R2 ",
            round(progress.val_metric, 4),
            "  lr ",
            round(progress.learning_rate, 6),
            sep="",
        )
        return Action()


def noisy_curve(samples: Int) raises -> Dataset[dtype]:
    """Points of `sin(3 x) + x / 2` with noise, for x in [-2, 2]."""
    var x: List[Float32] = []
    var y: List[Float32] = []
    for _ in range(samples):
        var at = random_float64(-2, 2)
        x.append(at.cast[dtype]())
        var value = sin(3 * at) + at / 2 + NOISE * randn_float64()
        y.append(value.cast[dtype]())
    return Dataset[dtype](x^, samples, values=y^)


def main() raises:
    seed(1)
    var data = noisy_curve(SAMPLES)
    var validation = noisy_curve(SAMPLES // 4)
    var model = Sequential(
        (
            Linear[dtype](1, 64),
            Elementwise[dtype](64, Tanh()),
            Linear[dtype](64, 64),
            Elementwise[dtype](64, Tanh()),
            Linear[dtype](64, 1),
        )
    )
    var updates = EPOCHS * (SAMPLES // BATCH)
    var schedule = Warmup(updates // 10).then(
        Cosine(updates - updates // 10), at=updates // 10
    )
    var trainer = Trainer(
        Network(model^, batch_size=BATCH, seed=0),
        MeanSquaredError(SquaredError()),
        AdamW(lr=0.01),
        Scheduler(schedule^, base_lr=0.01),
        max_norm=1,
    )
    var callbacks = PrintRates()
    var r2 = OfValues(R2Score())
    trainer.train(data, validation, callbacks, r2, epochs=EPOCHS)
    print(
        "validation loss ",
        round(trainer.val_history[EPOCHS - 1].loss, 4),
        ", of which noise ",
        NOISE * NOISE,
        "; R2 ",
        round(trainer.val_metrics[EPOCHS - 1], 4),
        sep="",
    )
