"""Time whole training runs against the same loop written by hand in torch.

The network is an MLP with layers 64-32-10, the loss cross-entropy, and batches of 32 samples
are ready in memory: what is left is what a loop costs. Ratios are the hand-written loop's
time by the other's, from interleaved pairs: above 1, the other is faster.

hotloop's loops take turns with the hand-written one within a run, 100 batches each, so that a
busy moment of the machine weighs on both alike: the loader that one run reads from makes the
other's steps between its batches. Other trainers, where they are installed, are timed by the
run of 2000 batches, from the making of the trainer on.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import itertools
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hotloop import backend, optimizers
from hotloop.callbacks import ProgressBar
from hotloop.config import TrainingConfig
from hotloop.loops import Trainer, train_epoch
from measure import Comparison, compare, describe_machine

BATCHES = 2000
CHUNK = 100
BATCH_SIZE = 32
MAX_NORM = 1.0
LEARNING_RATE = 1e-3

Batch = tuple[Tensor, Tensor]
Program = Callable[[], object]
Programs = dict[str, Program]


def make_batches() -> list[Batch]:
    torch.manual_seed(0)
    return [
        (torch.randn(BATCH_SIZE, 64), torch.randint(0, 10, (BATCH_SIZE,))) for _ in range(BATCHES)
    ]


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)


class ByHand:
    """The loop that everything is compared with."""

    def __init__(self, *, is_clipped: bool = False) -> None:
        self._model = make_model()
        self._loss = nn.CrossEntropyLoss()
        self._is_clipped = is_clipped
        params = self._model.parameters()
        self._optimizer = (
            torch.optim.AdamW(params, lr=LEARNING_RATE, fused=True)
            if is_clipped
            else sgd(self._model)
        )

    def __call__(self, batches: list[Batch]) -> None:
        """Train on some batches, where the last call left off."""
        model, loss_fn, optimizer = self._model, self._loss, self._optimizer
        if self._is_clipped:
            for inputs, target in batches:
                optimizer.zero_grad()
                loss = loss_fn(model(inputs), target)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
                optimizer.step()
        else:
            for inputs, target in batches:
                optimizer.zero_grad()
                loss = loss_fn(model(inputs), target)
                loss.backward()
                optimizer.step()


class TakingTurns:
    """A loader whose reader takes turns with another loop, until the time is up.

    Args:
        batches: What both get.
        other: The other loop.
        seconds: For both of them.
    """

    def __init__(self, batches: list[Batch], other: ByHand, seconds: float) -> None:
        self._batches = batches
        self._other = other
        self._seconds = seconds
        self._turns: tuple[list[float], list[float]] = ([], [])

    def __len__(self) -> int:
        # A progress bar wants to know; the time is up before.
        return 10**9

    def __iter__(self) -> Iterator[Batch]:
        chunks = [
            self._batches[first : first + CHUNK] for first in range(0, len(self._batches), CHUNK)
        ]
        read, made = self._turns
        end = time.perf_counter() + self._seconds
        for chunk in itertools.cycle(chunks):
            for is_reader in (True, False, False, True):
                start = time.perf_counter()
                if is_reader:
                    yield from chunk
                else:
                    self._other(chunk)
                (read if is_reader else made).append(time.perf_counter() - start)
            if time.perf_counter() > end:
                return

    def comparison(self) -> Comparison:
        """Return the outcome, without the first pairs."""
        read, made = (times[8:] for times in self._turns)
        ratios = [
            (made[index] + made[index + 1]) / (read[index] + read[index + 1])
            for index in range(0, len(read), 2)
        ]
        low, middle, high = statistics.quantiles(ratios, n=4)
        scale = BATCHES / CHUNK
        return Comparison(
            ours=statistics.median(read) * scale,
            theirs=statistics.median(made) * scale,
            ratio=middle,
            spread=(high - low) / middle,
            pairs=len(ratios),
        )


def on_terminal() -> ProgressBar:
    """Return the progress bar as it is on a terminal, which takes more than off one."""
    return ProgressBar(Console(file=open(os.devnull, "w"), force_terminal=True, highlight=False))


def by_trainer(
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    *,
    is_quiet: bool = False,
    clip_norm: float | None = None,
) -> Callable[[TakingTurns], object]:
    config = TrainingConfig(progress=False, clip_norm=clip_norm)

    def run(loader: TakingTurns) -> None:
        model = make_model()
        Trainer(
            model,
            config,
            loader,
            callbacks=() if is_quiet else (on_terminal(),),
            loss=nn.CrossEntropyLoss(),
            optimizer=make_optimizer(model),
        ).train()

    return run


def by_train_epoch(loader: TakingTurns) -> None:
    model = make_model()
    train_epoch(model, sgd(model), nn.CrossEntropyLoss(), loader)


def our_sgd(model: nn.Module) -> torch.optim.Optimizer:
    return optimizers.SGD(model.parameters(), lr=LEARNING_RATE)


def our_adamw(model: nn.Module) -> torch.optim.Optimizer:
    return optimizers.AdamW(model.parameters(), lr=LEARNING_RATE)


def ignite(batches: list[Batch]) -> Program:
    engine = importlib.import_module("ignite.engine")

    def run() -> None:
        model, loss_fn = make_model(), nn.CrossEntropyLoss()
        trainer = engine.create_supervised_trainer(model, sgd(model), loss_fn)
        trainer.run(batches, max_epochs=1)

    return run


def fabric(batches: list[Batch]) -> Program:
    lightning = importlib.import_module("lightning")
    fabric = lightning.Fabric(accelerator="cpu", devices=1)

    def run() -> None:
        loss_fn = nn.CrossEntropyLoss()
        model = make_model()
        model, optimizer = fabric.setup(model, sgd(model))
        for inputs, target in batches:
            optimizer.zero_grad()
            loss = loss_fn(model(inputs), target)
            fabric.backward(loss)
            optimizer.step()

    return run


def accelerate(batches: list[Batch]) -> Program:
    accelerator = importlib.import_module("accelerate").Accelerator(cpu=True)

    def run() -> None:
        loss_fn = nn.CrossEntropyLoss()
        model = make_model()
        model, optimizer = accelerator.prepare(model, sgd(model))
        for inputs, target in batches:
            with accelerator.accumulate(model):
                optimizer.zero_grad()
                loss = loss_fn(model(inputs), target)
                accelerator.backward(loss)
                optimizer.step()
        accelerator.free_memory()

    return run


def skorch(batches: list[Batch]) -> Program:
    skorch = importlib.import_module("skorch")

    def run() -> None:
        net = skorch.NeuralNet(
            make_model(),
            criterion=nn.CrossEntropyLoss,
            optimizer=torch.optim.SGD,
            lr=LEARNING_RATE,
            max_epochs=1,
            iterator_train=lambda dataset, **_: batches,
            train_split=None,
            verbose=0,
        )
        net.fit(*batches[0])

    return run


def hugging_face(batches: list[Batch]) -> Program:
    transformers = importlib.import_module("transformers")

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = make_model()

        def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": nn.functional.cross_entropy(self.layers(inputs), labels)}

    examples = [{"inputs": inputs, "labels": target} for inputs, target in batches]

    def run() -> None:
        with tempfile.TemporaryDirectory() as directory:
            model = Model()
            settings = transformers.TrainingArguments(
                output_dir=directory,
                num_train_epochs=1,
                per_device_train_batch_size=1,
                max_grad_norm=0.0,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
                dataloader_pin_memory=False,
                logging_steps=BATCHES,
            )
            trainer = transformers.Trainer(
                model,
                settings,
                data_collator=lambda batch: batch[0],
                train_dataset=examples,
                optimizers=(sgd(model), None),
            )
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train()

    return run


def lightning(batches: list[Batch]) -> Program:
    lightning = importlib.import_module("lightning")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layers = make_model()

        def training_step(self, batch: Batch, index: int) -> Tensor:
            inputs, target = batch
            return nn.functional.cross_entropy(self.layers(inputs), target)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return sgd(self)

    # A list would be taken for one of loaders.
    loader = DataLoader(batches, batch_size=None)

    def run() -> None:
        lightning.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(Module(), loader)

    return run


PEERS: dict[str, Callable[[list[Batch]], Program]] = {
    "Ignite's engine": ignite,
    "Lightning Fabric": fabric,
    "skorch": skorch,
    "Accelerate": accelerate,
    "Hugging Face Trainer": hugging_face,
    "Lightning Trainer": lightning,
}


def find_peers(batches: list[Batch]) -> Programs:
    """Return the runs of the trainers that are installed."""
    peers: Programs = {}
    for name, make in PEERS.items():
        try:
            peers[name] = make(batches)
        except ImportError as error:
            print(f"left out: {name} ({error})")
    return peers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=15.0, help="for each ratio")
    parser.add_argument("--report", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable()  # Some trainers tell of each run.

    batches = make_batches()
    ours: list[tuple[str, Callable[[TakingTurns], object], bool]] = [
        ("train_epoch", by_train_epoch, False),
        ("Trainer, quiet", by_trainer(sgd, is_quiet=True), False),
        ("Trainer", by_trainer(sgd), False),
        ("Trainer, hotloop's SGD", by_trainer(our_sgd), False),
        (
            "Trainer, hotloop's AdamW, clipping; by hand torch's, fused",
            by_trainer(our_adamw, clip_norm=MAX_NORM),
            True,
        ),
    ]
    peers = find_peers(batches)
    lines: list[str] = []

    def tell(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    tell(f"{datetime.date.today()}: {describe_machine()}")
    tell(f"{backend.describe().splitlines()[0]}; a step is a batch")
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        tell("")
        tell(f"| {threads} thread{'s' * (threads > 1)} | step | by hand | time by hand's | speed |")
        tell("|---|---:|---:|---:|---:|")

        def tell_of(name: str, result: Comparison) -> None:
            step, other = result.ours / BATCHES * 1e6, result.theirs / BATCHES * 1e6
            share = f"{1 / result.ratio:.3f}" if result.is_reliable else "-"
            tell(f"| {name} | {step:.1f} µs | {other:.1f} µs | {share} | {result} |")

        for name, run, is_clipped in ours:
            turns = TakingTurns(batches, ByHand(is_clipped=is_clipped), arguments.seconds)
            run(turns)
            tell_of(name, turns.comparison())
        for name, program in peers.items():
            tell_of(name, compare(program, lambda: ByHand()(batches), arguments.seconds))
    if arguments.report:
        arguments.report.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
