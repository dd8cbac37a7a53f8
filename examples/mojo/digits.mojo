"""Trains a classifier of handwritten digits, without Python.

The data come from scikit-learn; export them once, and run this from the repository's root:

    python -c "import numpy, sklearn.datasets as d; x, y = d.load_digits(return_X_y=True); \
        numpy.savetxt('digits.csv', numpy.c_[x, y], fmt='%d', delimiter=',')"
    mojo run -I . examples/mojo/digits.mojo digits.csv
"""

from std.sys import argv

from shared.training.callbacks import Callbacks, EarlyStopping, PrintEpochs
from shared.training.loops import Trainer
from shared.training.models import (
    CrossEntropy,
    Dataset,
    Elementwise,
    Linear,
    Network,
    ReLU,
    Sequential,
)
from shared.training.optimizers import AdamW
from shared.training.schedulers import Cosine, Scheduler

comptime dtype = DType.float32
comptime PIXELS = 64
comptime VALIDATION = 5
comptime EPOCHS = 30
comptime BATCH = 32


def read_digits(path: String) raises -> List[Dataset[dtype]]:
    """Reads lines of 64 pixels and a class; every fifth sample is for validation."""
    var pixels: List[List[Float32]] = [[], []]
    var labels: List[List[Int64]] = [[], []]
    var line_number = 0
    with open(path, "r") as file:
        for line in file.read().splitlines():
            var fields = line.split(",")
            if len(fields) != PIXELS + 1:
                raise Error(path, " has no digit on line ", line_number + 1)
            var part = 1 if line_number % VALIDATION == 0 else 0
            for i in range(PIXELS):
                pixels[part].append(Float32(Int(fields[i])) / 16)
            labels[part].append(Int64(Int(fields[PIXELS])))
            line_number += 1
    var result: List[Dataset[dtype]] = []
    for part in range(2):
        result.append(
            Dataset[dtype](
                pixels[part].copy(),
                len(labels[part]),
                labels=labels[part].copy(),
            )
        )
    return result^


def main() raises:
    var arguments = argv()
    if len(arguments) != 2:
        raise Error("usage: mojo run -I . examples/mojo/digits.mojo digits.csv")
    var data = read_digits(String(arguments[1]))
    var model = Sequential(
        (
            Linear[dtype](PIXELS, 128),
            Elementwise[dtype](128, ReLU()),
            Linear[dtype](128, 64),
            Elementwise[dtype](64, ReLU()),
            Linear[dtype](64, 10),
        )
    )
    var updates = EPOCHS * ((data[0].samples + BATCH - 1) // BATCH)
    var trainer = Trainer(
        Network(model^, batch_size=BATCH, seed=0),
        CrossEntropy(smoothing=0.1),
        AdamW(lr=0.003),
        Scheduler(Cosine(updates), base_lr=0.003),
    )
    var callbacks = Callbacks((PrintEpochs(), EarlyStopping(10)))
    trainer.train(data[0], data[1], callbacks, epochs=EPOCHS)
    var found = trainer.evaluate(data[1])
    print(
        "validation accuracy ",
        round(found.accuracy * 10000) / 100,
        " %, loss ",
        round(found.loss * 10000) / 10000,
        sep="",
    )
