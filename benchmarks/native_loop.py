"""Time epochs of whole loops in Mojo against the same epochs of others, on five small networks.

The ratio is the peer's time by hotloop's, from interleaved pairs: above 1, hotloop is faster. Each
program trains with AdamW on the same samples in the same order, from the same parameters. The
floor is the time of the multiplications at the speed of a large product of torch's. The last line
is `fit` of scikit-learn's classifier of digits and of the estimator that stands in for it. Nothing
else may run meanwhile; one thread means one core for all, so run it under `taskset -c 0`.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import measure
from hotloop.native import NativeTrainer
from hotloop.optimizers import AdamW

LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Task:
    """A network, and what it is trained on.

    Attributes:
        name: What it stands for.
        sizes: Features of the input, the hidden layers and the output.
        batch: Samples in a batch.
        batches: Batches in an epoch.
        activation: The function between the layers.
        has_labels: Whether the loss is a cross-entropy; otherwise it is the squared error.
    """

    name: str
    sizes: tuple[int, ...]
    batch: int
    batches: int
    activation: str
    has_labels: bool

    @property
    def flops(self) -> int:
        """Multiplications and additions of a batch, without the first layer's input gradient."""
        weights = [inputs * outputs for inputs, outputs in pairwise(self.sizes)]
        return 2 * self.batch * (3 * sum(weights) - weights[0])

    def data(self) -> tuple[Tensor, Tensor]:
        """Return as many samples as an epoch has."""
        torch.manual_seed(0)
        samples = self.batch * self.batches
        x = torch.randn(samples, self.sizes[0])
        if self.has_labels:
            return x, torch.randint(0, self.sizes[-1], (samples,))
        return x, torch.randn(samples, self.sizes[-1])

    def model(self) -> nn.Sequential:
        """Return the network, always with the same parameters."""
        torch.manual_seed(1)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(self.sizes):
            layers += [
                nn.Linear(inputs, outputs),
                {"relu": nn.ReLU, "tanh": nn.Tanh}[self.activation](),
            ]
        return nn.Sequential(*layers[:-1])


TASKS = (
    Task("digits", (64, 128, 64, 10), 32, 45, "relu", True),
    Task("tabular", (8, 64, 64, 1), 64, 50, "tanh", False),
    Task("policy", (8, 64, 64, 4), 64, 50, "tanh", True),
    Task("image", (2, 64, 64, 64, 3), 4096, 8, "relu", False),
    Task("784-512-512-10", (784, 512, 512, 10), 128, 10, "relu", True),
)


def by_hotloop(task: Task) -> Callable[[], object]:
    x, y = task.data()
    order = torch.arange(len(x))
    model = task.model()
    trainer = NativeTrainer(
        model,
        loss="cross_entropy" if task.has_labels else "mse",
        optimizer=AdamW(model.parameters(), lr=LEARNING_RATE),
        batch_size=task.batch,
    )
    return lambda: trainer.train_epoch(x, y, order=order)["loss"]


def by_torch(task: Task, *, is_compiled: bool = False) -> Callable[[], object]:
    x, y = task.data()
    model = task.model()
    loss = nn.CrossEntropyLoss() if task.has_labels else nn.MSELoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    batches = list(zip(x.split(task.batch), y.split(task.batch)))

    def forward(x: Tensor, y: Tensor) -> Tensor:
        return loss(model(x), y)

    step = torch.compile(forward) if is_compiled else forward

    def epoch() -> float:
        total = torch.zeros(())
        for inputs, target in batches:
            optimizer.zero_grad()
            value = step(inputs, target)
            value.backward()
            optimizer.step()
            total += value.detach()
        return float(total) / len(batches)

    return epoch


def by_sklearn(task: Task) -> Callable[[], object]:
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    x, y = task.data()
    kind = MLPClassifier if task.has_labels else MLPRegressor
    model = kind(
        hidden_layer_sizes=task.sizes[1:-1],
        activation=task.activation,
        batch_size=task.batch,
        shuffle=False,
    )
    samples, target = x.numpy(), y.squeeze().numpy()
    options = {"classes": np.arange(task.sizes[-1])} if task.has_labels else {}
    return lambda: model.partial_fit(samples, target, **options)


def by_jax(task: Task) -> Callable[[], object]:
    import jax
    import jax.numpy as jnp

    x, y = (jnp.asarray(each.numpy()) for each in task.data())
    x = x.reshape(task.batches, task.batch, -1)
    y = y.reshape(task.batches, task.batch, *y.shape[1:])
    linears = [layer for layer in task.model() if isinstance(layer, nn.Linear)]
    start = [
        (jnp.asarray(layer.weight.detach().numpy().T), jnp.asarray(layer.bias.detach().numpy()))
        for layer in linears
    ]
    function = {"relu": jax.nn.relu, "tanh": jnp.tanh}[task.activation]

    def loss(params: Any, x: Any, y: Any) -> Any:
        for weight, bias in params[:-1]:
            x = function(x @ weight + bias)
        x = x @ params[-1][0] + params[-1][1]
        if task.has_labels:
            return -jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], 1).mean()
        return ((x - y) ** 2).mean()

    def step(state: Any, batch: Any) -> Any:
        params, first, second, count = state
        value, grads = jax.value_and_grad(loss)(params, *batch)
        count = count + 1
        first = jax.tree.map(lambda m, g: m + 0.1 * (g - m), first, grads)
        second = jax.tree.map(lambda v, g: v + 0.001 * (g * g - v), second, grads)
        rate = LEARNING_RATE / (1 - 0.9**count)
        root = jnp.sqrt(1 - 0.999**count)

        def update(p: Any, m: Any, v: Any) -> Any:
            return p * (1 - LEARNING_RATE * 0.01) - rate * m / (jnp.sqrt(v) / root + 1e-8)

        params = jax.tree.map(update, params, first, second)
        return (params, first, second, count), value

    zeros = jax.tree.map(jnp.zeros_like, start)
    state = [(start, zeros, jax.tree.map(jnp.zeros_like, start), jnp.zeros(()))]
    epoch = jax.jit(lambda state: jax.lax.scan(step, state, (x, y)), donate_argnums=0)

    def run() -> float:
        state[0], values = epoch(state[0])
        return float(values.mean())

    return run


def peers(task: Task) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "torch eager", by_torch(task)
    for name, make in (
        ("torch.compile", lambda: by_torch(task, is_compiled=True)),
        ("scikit-learn", lambda: by_sklearn(task)),
        ("JAX, an epoch in one scan", lambda: by_jax(task)),
    ):
        try:
            program = make()
            program()
        except Exception as error:  # It is not installed, or has no compiler.
            print(f"left out: {name} ({type(error).__name__}: {str(error).splitlines()[0]})")
            continue
        yield name, program


def check(task: Task) -> None:
    """Make sure that all train alike."""
    ours, theirs = by_hotloop(task), by_torch(task)
    for _ in range(3):
        np.testing.assert_allclose(ours(), theirs(), rtol=1e-3)


def peak_flops() -> float:
    """Return the multiplications and additions a second of a product of large matrices."""
    left, right = torch.rand(2, 1024, 1024)
    times = []
    for _ in range(30):
        start = time.perf_counter()
        torch.mm(left, right)
        times.append(time.perf_counter() - start)
    return 2 * 1024**3 / min(times)


def compare_estimators(seconds: float) -> str:
    """Return a line for `fit` of both classifiers of digits, with the same epochs."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier

    from hotloop.native.estimators import NativeMLPClassifier

    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x / 16, y, random_state=0)
    kinds = (NativeMLPClassifier, MLPClassifier)
    options = {"max_iter": 30, "n_iter_no_change": 30}
    programs = [
        lambda kind=kind: kind(random_state=0, **options).fit(x_train, y_train) for kind in kinds
    ]
    result = measure.compare(programs[0], programs[1], seconds=seconds)
    scores = [
        np.mean(
            [
                kind(random_state=seed, **options).fit(x_train, y_train).score(x_test, y_test)
                for seed in range(10)
            ]
        )
        for kind in kinds
    ]
    return (
        f"NativeMLPClassifier().fit, 30 epochs of digits: {result.ours * 1e3:.0f} ms, "
        f"{result} scikit-learn's; mean accuracy of 10 seeds {scores[0]:.4f} and {scores[1]:.4f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each pair")
    parser.add_argument("--tasks", nargs="*", default=[task.name for task in TASKS])
    parser.add_argument("--report", type=Path, help="also write the tables to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    print(measure.describe_machine(), end="\n\n")
    peak = peak_flops()
    rows = []
    for task in TASKS:
        if task.name not in options.tasks:
            continue
        check(task)
        ours = by_hotloop(task)
        cells = []
        seconds = 0.0
        for name, program in peers(task):
            result = measure.compare(ours, program, seconds=options.seconds)
            seconds = result.ours / task.batches
            cells.append(f"{name} {result}")
        speed = task.flops / seconds / 1e9
        sizes = "-".join(map(str, task.sizes))
        rows.append(
            f"| {task.name} | {sizes}, {task.batch} | {seconds * 1e6:.1f} µs | "
            f"{task.flops / peak * 1e6:.1f} µs | {speed:.0f} | "
            f"{cells[0].removeprefix('torch eager ')} | {', '.join(cells[1:])} |"
        )
        print(rows[-1], flush=True)
    head = [
        f"{measure.describe_machine()}; a large product: {peak / 1e9:.0f} GFLOP/s\n",
        f"| threads: {options.threads} | network, batch | step | floor | GFLOP/s | torch | "
        "others |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    text = "\n".join([*head, *rows])
    print(f"\n{text}")
    try:
        line = compare_estimators(options.seconds)
    except ImportError:
        line = "scikit-learn is not installed"
    print(f"\n{line}")
    if options.report is not None:
        options.report.write_text(f"{text}\n\n{line}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
