"""Learns the exclusive or of two bits, without Python.

Run it from the repository's root: `mojo run -I . examples/mojo/xor.mojo`.
"""

from std.math import exp

from shared.training.callbacks import PrintEpochs
from shared.training.loops import Trainer
from shared.training.models import (
    BinaryCrossEntropy,
    Dataset,
    Elementwise,
    Linear,
    LogisticError,
    Network,
    Sequential,
    Tanh,
)
from shared.training.optimizers import AdamW
from shared.training.schedulers import Constant, Scheduler

comptime dtype = DType.float32
comptime EPOCHS = 300


def main() raises:
    var bits = [Float32(0), 0, 0, 1, 1, 0, 1, 1]
    var data = Dataset[dtype](List(bits), 4, values=List([Float32(0), 1, 1, 0]))
    var model = Sequential(
        (
            Linear[dtype](2, 8),
            Elementwise[dtype](8, Tanh()),
            Linear[dtype](8, 1),
        )
    )
    var trainer = Trainer(
        Network(model^, batch_size=4, seed=0),
        BinaryCrossEntropy(LogisticError()),
        AdamW(lr=0.05, weight_decay=0.0),
        Scheduler(Constant(), base_lr=0.05),
    )
    var callbacks = PrintEpochs(every=60)
    trainer.train(data, callbacks, epochs=EPOCHS)

    print("\n a  b  a xor b  probability of 1")
    var logits = trainer.predict(data)
    for i in range(4):
        print(
            " ",
            Int(bits[2 * i]),
            "  ",
            Int(bits[2 * i + 1]),
            "  ",
            Int(data.values[i]),
            "        ",
            round(1 / (1 + exp(-logits[i])), 4),
            sep="",
        )
