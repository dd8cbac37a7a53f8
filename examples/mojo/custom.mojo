"""A layer and a callback of one's own, in a network that continues a wave.

The layer is Snake, `x + sin(a x)^2 / a` with a frequency a that each feature learns (Liu
Ziyin et al., 2020, arXiv:2006.08195). The callback ends the run at a target.

Run it from the repository's root: `mojo run -I . examples/mojo/custom.mojo`.
"""

from std.math import sin
from std.sys import simd_width_of

from shared.training.callbacks import (
    Action,
    Callback,
    Callbacks,
    Progress,
)
from shared.training.core.memory import Elements
from shared.training.loops import Trainer
from shared.training.models import (
    Block,
    Dataset,
    Layer,
    Linear,
    MeanSquaredError,
    Network,
    ParameterSpec,
    Sequential,
    SquaredError,
)
from shared.training.optimizers import AdamW
from shared.training.schedulers import Constant, Scheduler

comptime dtype = DType.float32
comptime WIDTH = simd_width_of[dtype]()


@fieldwise_init
struct Snake(Layer):
    """Feature `f` of sample `s` is element `f * block.stride + s`; rows are whole vectors."""

    comptime dtype = DType.float32

    var features: Int
    var frequency: Int
    """Address of the frequency of each feature; the network binds it."""
    var frequency_grad: Int

    def __init__(out self, features: Int):
        self = Self(features, 0, 0)

    def inputs(self) -> Int:
        return self.features

    def outputs(self) -> Int:
        return self.features

    def parameters(self) -> Int:
        return 1

    def parameter(self, index: Int) -> ParameterSpec:
        # A bound below 0 is a constant: all frequencies begin at 1.
        return ParameterSpec(rows=1, columns=self.features, bound=-1)

    def bind(mut self, index: Int, value: Int, grad: Int):
        self.frequency = value
        self.frequency_grad = grad

    def forward(
        self,
        x: Elements[dtype],
        y: Elements[dtype],
        kept: Elements[dtype],
        block: Block,
    ):
        var frequency = Elements[dtype](unsafe_from_address=self.frequency)
        for f in range(self.features):
            var a = frequency[unsafe_offset=f]
            for s in range(0, block.samples, WIDTH):
                var at = f * block.stride + s
                var lanes = x.unsafe_load[width=WIDTH](at)
                var wave = sin(a * lanes)
                y.unsafe_store[width=WIDTH](at, lanes + wave * wave / a)

    def backward(
        self,
        x: Elements[dtype],
        y: Elements[dtype],
        kept: Elements[dtype],
        dy: Elements[dtype],
        dx: Elements[dtype],
        needs_dx: Bool,
        block: Block,
    ):
        var frequency = Elements[dtype](unsafe_from_address=self.frequency)
        # A thread of its own has gradients of its own, so many bytes away.
        var grad = Elements[dtype](
            unsafe_from_address=self.frequency_grad + block.grad_shift
        )
        for f in range(self.features):
            var a = frequency[unsafe_offset=f]
            var sum = SIMD[dtype, WIDTH](0)
            for s in range(0, block.samples, WIDTH):
                var at = f * block.stride + s
                var lanes = x.unsafe_load[width=WIDTH](at)
                var upper = dy.unsafe_load[width=WIDTH](at)
                var wave = sin(a * lanes)
                var slope = sin(2 * a * lanes)
                sum += upper * (lanes * slope - wave * wave / a) / a
                if needs_dx:
                    dx.unsafe_store[width=WIDTH](at, upper * (1 + slope))
            var start = grad[unsafe_offset=f] if block.accumulates else 0
            grad[unsafe_offset=f] = start + sum.reduce_add()


struct Target(Callback):
    """Ends the run once the loss of validation is low enough."""

    var val_loss: Float64
    var epochs: Int

    def __init__(out self, val_loss: Float64):
        self.val_loss = val_loss
        self.epochs = 0

    def on_validation_end(mut self, progress: Progress) raises -> Action:
        self.epochs += 1
        return Action(stops=progress.val_loss <= self.val_loss)

    def on_train_end(mut self, progress: Progress) raises -> Action:
        print(
            "val_loss ",
            round(progress.val_loss, 7),
            " after ",
            self.epochs,
            " of ",
            progress.epochs,
            " epochs, target ",
            self.val_loss,
            sep="",
        )
        return Action()


def wave(start: Float64, end: Float64, samples: Int) raises -> Dataset[dtype]:
    """Points of `sin(2 x)`."""
    var x: List[Float32] = []
    var y: List[Float32] = []
    for i in range(samples):
        var at = start + (end - start) * Float64(i) / Float64(samples - 1)
        x.append(at.cast[dtype]())
        y.append(sin(2 * at).cast[dtype]())
    return Dataset[dtype](x^, samples, values=y^)


def main() raises:
    var data = wave(-4, 4, 256)
    var validation = wave(-3.99, 3.99, 101)
    var beyond = wave(3, 6, 11)
    var trainer = Trainer(
        Network(
            Sequential((Linear[dtype](1, 16), Snake(16), Linear[dtype](16, 1))),
            batch_size=32,
            seed=0,
        ),
        MeanSquaredError(SquaredError()),
        AdamW(lr=0.01, weight_decay=0.0),
        Scheduler(Constant(), base_lr=0.01),
    )
    var callbacks = Callbacks((Target(1e-5),))
    trainer.train(data, validation, callbacks, epochs=500)

    ref frequencies = trainer.network.parameters[2].value
    print("learned frequencies:", end="")
    for i in range(0, 16, 4):
        print(" ", round(frequencies[i], 2), end="")
    print()
    print("\n   x  sin(2 x)  network, trained up to x = 4")
    var outputs = trainer.predict(beyond)
    for i in range(beyond.samples):
        print(
            " ",
            round(beyond.features[i].cast[DType.float64](), 1),
            "  ",
            round(beyond.values[i].cast[DType.float64](), 3),
            "  ",
            round(outputs[i].cast[DType.float64](), 3),
        )
