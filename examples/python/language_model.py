"""Trains a small transformer, character by character, on Python's own language reference.

The text is `pydoc_data.topics` of the standard library, what `help("for")` and the like show; it
differs between versions of Python. language_model_torch.py is the same program without
hotloop: `diff language_model.py language_model_torch.py` shows what the trainer does.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from pydoc_data.topics import topics

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from hotloop.callbacks import Callback, TrainState
from hotloop.config import TrainingConfig
from hotloop.loops import Trainer
from hotloop.losses import lm_cross_entropy
from hotloop.optimizers import create_optimizer
from hotloop.schedulers import Cosine, Warmup

NO_TARGET = -100


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        # (B, T, 3 width) -> three times (B, heads, T, width / heads)
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    def __init__(self, vocabulary: int, context: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.context = context
        self.characters = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)
        for table in (self.characters, self.positions):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, indices: Tensor) -> Tensor:
        places = torch.arange(indices.shape[1], device=indices.device)
        x = self.characters(indices) + self.positions(places)
        return self.head(self.norm(self.blocks(x)))


def load(context: int, batch_size: int) -> tuple[DataLoader, DataLoader, list[str]]:
    """Cut each topic into rows of `context` characters; what is missing in its last row pads it."""
    characters = sorted(set("".join(topics.values())))
    index_of = {character: index for index, character in enumerate(characters)}
    rows: dict[bool, list[Tensor]] = {True: [], False: []}
    for number, name in enumerate(sorted(topics)):
        text = torch.tensor([index_of[character] for character in topics[name]])
        for row in text.split(context):
            padded = functional.pad(row, (0, context - len(row)), value=NO_TARGET)
            rows[number % 10 == 9].append(padded)  # Every tenth topic is for validation.

    def loader(rows: list[Tensor], **options: bool) -> DataLoader:
        targets = torch.stack(rows)
        # Each character is predicted from those before it; the first one from index 0.
        inputs = functional.pad(targets[:, :-1], (1, 0)).clamp(min=0)
        return DataLoader(TensorDataset(inputs, targets), batch_size, **options)

    return loader(rows[False], shuffle=True), loader(rows[True]), characters


class PrintPerplexity(Callback):
    def on_validation_end(self, state: TrainState) -> None:
        print(f"step {state.step}: validation perplexity {math.exp(state.metrics['val_loss']):.3f}")


def train(
    arguments: argparse.Namespace, callbacks: Iterable[Callback] = ()
) -> tuple[Transformer, list[str], float]:
    torch.manual_seed(0)
    train_loader, val_loader, characters = load(arguments.context, batch_size=16)
    model = Transformer(len(characters), arguments.context, arguments.width, 4, arguments.layers)
    optimizer = create_optimizer(
        model, "AdamW", learning_rate=3e-3, weight_decay=0.1, betas=(0.9, 0.95)
    )
    config = TrainingConfig(
        max_steps=arguments.steps,
        accumulate=arguments.accumulate,
        clip_norm=arguments.clip_norm,
        precision=arguments.precision,
        validate_every=max(arguments.steps // 4, 1),
        limit_val_batches=arguments.val_batches,
    )
    trainer = Trainer(
        model,
        config,
        train_loader,
        val_loader,
        [PrintPerplexity(), *callbacks],
        loss=lm_cross_entropy,
        optimizer=optimizer,
        scheduler=Warmup(0.05).then(Cosine(end=0.1)),
    )
    history = trainer.train()
    return model, characters, math.exp(history["val_loss"][-1])


@torch.inference_mode()
def generate(model: Transformer, characters: list[str], length: int) -> str:
    model.eval()
    indices = torch.zeros(1, 1, dtype=torch.int64)
    for _ in range(length):
        logits = model(indices[:, -model.context :])[:, -1] / 0.8
        indices = torch.cat([indices, logits.softmax(1).multinomial(1)], dim=1)
    return "".join(characters[index] for index in indices[0, 1:])


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--accumulate", type=int, default=2, help="batches of an update")
    parser.add_argument("--clip-norm", type=float, default=1.0)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--small", action="store_true", help="a model for a quick try")
    parsed = parser.parse_args(arguments)
    parsed.context, parsed.width, parsed.layers, parsed.val_batches = (
        (32, 32, 2, 4) if parsed.small else (128, 96, 3, 40)
    )
    return parsed


def main() -> None:
    model, characters, perplexity = train(parse())
    print(generate(model, characters, 400))
    print(f"validation perplexity {perplexity:.3f}")


if __name__ == "__main__":
    main()
