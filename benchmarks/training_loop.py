"""Time whole training runs against the same loop written by hand in torch.

The network is an MLP with layers 64-32-10, the loss cross-entropy, and a run takes the same
2000 batches of 32 samples, ready in memory: what is left is what a loop costs. A run begins
with the making of the trainer. Ratios are the hand-written loop's time by the other's, from
interleaved pairs: above 1, the other is faster. Other trainers are there if they are
installed.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hotloop import backend, optimizers
from hotloop.callbacks import ProgressBar
from hotloop.config import TrainingConfig
from hotloop.loops import Trainer, train_epoch
from measure import compare, describe_machine

BATCHES = 2000
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


def by_hand(batches: list[Batch]) -> Program:
    def run() -> None:
        model, loss_fn = make_model(), nn.CrossEntropyLoss()
        optimizer = sgd(model)
        for inputs, target in batches:
            optimizer.zero_grad()
            loss = loss_fn(model(inputs), target)
            loss.backward()
            optimizer.step()

    return run


def by_hand_clipped(batches: list[Batch]) -> Program:
    def run() -> None:
        model, loss_fn = make_model(), nn.CrossEntropyLoss()
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
        for inputs, target in batches:
            optimizer.zero_grad()
            loss = loss_fn(model(inputs), target)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
            optimizer.step()

    return run


def on_terminal() -> ProgressBar:
    """Return the progress bar as it is on a terminal, which takes more than off one."""
    return ProgressBar(Console(file=open(os.devnull, "w"), force_terminal=True, highlight=False))


def by_trainer(
    batches: list[Batch],
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    *,
    is_quiet: bool = False,
    clip_norm: float | None = None,
) -> Program:
    config = TrainingConfig(progress=False, clip_norm=clip_norm)

    def run() -> None:
        model = make_model()
        Trainer(
            model,
            config,
            batches,
            callbacks=() if is_quiet else (on_terminal(),),
            loss=nn.CrossEntropyLoss(),
            optimizer=make_optimizer(model),
        ).train()

    return run


def by_train_epoch(batches: list[Batch]) -> Program:
    def run() -> None:
        model = make_model()
        train_epoch(model, sgd(model), nn.CrossEntropyLoss(), batches)

    return run


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
    hand, clipped = by_hand(batches), by_hand_clipped(batches)
    rows: list[tuple[str, Program, Program]] = [
        ("train_epoch", by_train_epoch(batches), hand),
        ("Trainer, quiet", by_trainer(batches, sgd, is_quiet=True), hand),
        ("Trainer", by_trainer(batches, sgd), hand),
        ("Trainer, hotloop's SGD", by_trainer(batches, our_sgd), hand),
        (
            "Trainer, hotloop's AdamW, clipping; torch's fused AdamW by hand",
            by_trainer(batches, our_adamw, clip_norm=MAX_NORM),
            clipped,
        ),
        *((name, program, hand) for name, program in find_peers(batches).items()),
    ]
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
        for name, program, opponent in rows:
            result = compare(program, opponent, arguments.seconds)
            step, other = result.ours / BATCHES * 1e6, result.theirs / BATCHES * 1e6
            share = f"{1 / result.ratio:.3f}" if result.is_reliable else "-"
            tell(f"| {name} | {step:.1f} µs | {other:.1f} µs | {share} | {result} |")
    if arguments.report:
        arguments.report.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
