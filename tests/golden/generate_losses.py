"""Write the golden values of losses: `python tests/golden/generate_losses.py`.

The file holds predictions, targets and what torch computes from them in float64: losses as the sum
and the count, and gradients of the sum. One entry a line. Nothing of hotloop is imported.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

GOLDEN = Path(__file__).with_name("losses.json")

ROWS, CLASSES = 7, 21
IGNORED = -100


def entries() -> Iterator[tuple[str, Tensor]]:
    """Yield names and arrays."""
    generator = torch.Generator().manual_seed(7)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    logits = 3 * draw(ROWS, CLASSES)
    target = torch.randint(0, CLASSES, (ROWS,), generator=generator)
    target[2] = IGNORED
    weight = draw(CLASSES).abs()
    is_valid = target != IGNORED
    weights = weight[target.where(is_valid, 0)].where(is_valid, 0)
    yield "logits", logits
    yield "target", target
    yield "weight", weight

    def smoothed(x: Tensor) -> Tensor:
        return functional.cross_entropy(x, target, weight, label_smoothing=0.1, reduction="none")

    def normalised(x: Tensor) -> Tensor:
        losses = functional.cross_entropy(x, target, reduction="none")
        return losses + 0.01 * x.logsumexp(1).square() * is_valid

    def focal(x: Tensor) -> Tensor:
        log_p = x.log_softmax(1).gather(1, target.where(is_valid, 0)[:, None])[:, 0]
        return -(weight[target.where(is_valid, 0)] * (1 - log_p.exp()) ** 1.5 * log_p) * is_valid

    def plain(x: Tensor) -> Tensor:
        return functional.cross_entropy(x, target, reduction="none")

    count = float(is_valid.sum())
    yield from both("cross_entropy", plain, logits, count)
    yield from both("cross_entropy smoothed", smoothed, logits, float(weights.sum()))
    yield from both("cross_entropy normalised", normalised, logits, count)
    yield from both("focal", focal, logits, count)

    preds = 2 * draw(43)
    values = 2 * draw(43)
    labels = (draw(43) > 0).double()
    labels[::5] = 0.25
    yield "preds", preds
    yield "values", values
    yield "labels", labels

    def sigmoid_focal(x: Tensor) -> Tensor:
        losses = functional.binary_cross_entropy_with_logits(x, labels, reduction="none")
        missed = x.sigmoid() * (1 - labels) + (-x).sigmoid() * labels
        return losses * missed**2 * (0.25 * labels + 0.75 * (1 - labels))

    def huber(x: Tensor) -> Tensor:
        return functional.huber_loss(x, values, delta=0.7, reduction="none")

    def entropy(x: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(x, labels, reduction="none")

    size = float(len(preds))
    yield from both("mse", lambda x: (x - values) ** 2, preds, size)
    yield from both("huber", huber, preds, size)
    yield from both("bce_with_logits", entropy, preds, size)
    yield from both("sigmoid_focal", sigmoid_focal, preds, size)


def both(
    name: str, loss: Callable[[Tensor], Tensor], preds: Tensor, count: float
) -> Iterator[tuple[str, Tensor]]:
    leaf = preds.clone().requires_grad_()
    total = loss(leaf).sum()
    (gradient,) = torch.autograd.grad(total, leaf)
    yield name, torch.tensor([total.item(), count], dtype=torch.float64)
    yield f"{name} gradient", gradient


def main() -> None:
    lines = [f"  {json.dumps(name)}: {json.dumps(value.tolist())}" for name, value in entries()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
