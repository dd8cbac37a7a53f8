"""Trains a small transformer, character by character, on Python's own language reference.

The same program as language_model.py without hotloop. Both give the same losses: bit for bit
with `--accumulate 1 --clip-norm inf`, and to roundings otherwise, since hotloop divides the
gradients of a window once at its end and sums their norm in float64.
"""

from __future__ import annotations

import argparse
import math
from itertools import islice
from pydoc_data.topics import topics

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

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


def compute_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum over all characters, since a window divides by how many it has."""
    rows = logits.float().flatten(0, 1)
    return functional.cross_entropy(
        rows, targets.flatten(), ignore_index=NO_TARGET, reduction="none"
    ).sum()


def factor_at(step: int, steps: int) -> float:
    warmup = round(0.05 * steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = min((step - warmup) / (steps - warmup), 1)
    return 0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2


def make_groups(model: nn.Module) -> list[dict]:
    exempt = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for parameter in model.parameters():
        groups[parameter.ndim >= 2 and id(parameter) not in exempt].append(parameter)
    return [
        {"params": groups[True], "weight_decay": 0.1},
        {"params": groups[False], "weight_decay": 0.0},
    ]


def train(arguments: argparse.Namespace) -> tuple[Transformer, list[str], float, list[float]]:
    torch.manual_seed(0)
    train_loader, val_loader, characters = load(arguments.context, batch_size=16)
    model = Transformer(len(characters), arguments.context, arguments.width, 4, arguments.layers)
    optimizer = torch.optim.AdamW(make_groups(model), lr=3e-3, betas=(0.9, 0.95), fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: factor_at(step, arguments.steps)
    )
    losses = []
    while len(losses) < arguments.steps:
        model.train()
        batches = iter(train_loader)
        while len(losses) < arguments.steps and (
            window := list(islice(batches, arguments.accumulate))
        ):
            count = sum((targets != NO_TARGET).sum() for _, targets in window)
            total = torch.zeros(())
            for inputs, targets in window:
                with autocast(arguments.precision):
                    part = compute_loss(model(inputs), targets)
                (part / count).backward()
                total += part.detach()
            nn.utils.clip_grad_norm_(model.parameters(), arguments.clip_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            losses.append(float(total / count))
            if len(losses) % max(arguments.steps // 4, 1) == 0:
                perplexity = math.exp(validate(model, val_loader, arguments))
                print(f"step {len(losses)}: validation perplexity {perplexity:.3f}")
                model.train()
    return model, characters, perplexity, losses


@torch.inference_mode()
def validate(model: nn.Module, loader: DataLoader, arguments: argparse.Namespace) -> float:
    model.eval()
    total, count = 0.0, 0
    for inputs, targets in islice(loader, arguments.val_batches):
        with autocast(arguments.precision):
            total += float(compute_loss(model(inputs), targets))
        count += int((targets != NO_TARGET).sum())
    return total / count


def autocast(precision: str) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")


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
    model, characters, perplexity, _ = train(parse())
    print(generate(model, characters, 400))
    print(f"validation perplexity {perplexity:.3f}")


if __name__ == "__main__":
    main()
