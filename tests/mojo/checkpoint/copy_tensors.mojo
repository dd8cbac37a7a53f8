"""Reads a file, and writes what is in it to another: `copy_tensors FROM TO`.

With one argument it trains a network and saves the run there.
"""

from std.sys import argv

from shared.training.callbacks import Callbacks
from shared.training.checkpoint import TensorFile
from shared.training.loops import Trainer
from shared.training.models import (
    Dataset,
    Elementwise,
    Linear,
    MeanSquaredError,
    Network,
    ReLU,
    Sequential,
    SquaredError,
)
from shared.training.optimizers import AdamW
from shared.training.schedulers import Constant, Scheduler

comptime dtype = DType.float32


def copy_tensors(source: String, target: String) raises:
    """Copies each tensor by way of its elements, and all strings."""
    var read = TensorFile.load(source)
    var written = TensorFile()
    for i in range(len(read.header.tensors)):
        ref entry = read.header.tensors[i]
        comptime for dtype in [
            DType.float32,
            DType.float64,
            DType.bfloat16,
            DType.int64,
        ]:
            if entry.dtype == dtype:
                written.put[dtype](
                    entry.name,
                    read.get[dtype](entry.name, entry.shape),
                    entry.shape,
                )
    written.header.metadata = read.header.metadata.copy()
    written.save(target)


def train(target: String) raises:
    """Fits two numbers, and writes the outputs for the data behind the run."""
    var x: List[Float32] = [0.5, -1, 2, 0.25, -0.75, 1, 3, -2]
    var y: List[Float32] = [1, -1, 0.5, 0.25]
    var data = Dataset[dtype](x^, 4, values=y^)
    var trainer = Trainer(
        Network(
            Sequential(
                (
                    Linear[dtype](2, 3),
                    Elementwise[dtype](3, ReLU()),
                    Linear[dtype](3, 1),
                )
            ),
            batch_size=2,
        ),
        MeanSquaredError(SquaredError()),
        AdamW(lr=0.1),
        Scheduler(Constant(), base_lr=0.1),
    )
    var nobody = Callbacks(())
    trainer.train(data, nobody, epochs=3)
    trainer.save(target)
    var outputs = TensorFile()
    outputs.put[dtype]("x", data.features, [4, 2])
    outputs.put[dtype]("y", trainer.predict(data), [4, 1])
    outputs.save(target + ".outputs")


def main() raises:
    var arguments = argv()
    if len(arguments) == 2:
        train(String(arguments[1]))
    else:
        copy_tensors(String(arguments[1]), String(arguments[2]))
