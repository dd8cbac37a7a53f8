"""The backward pass against torch's."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hotloop.loops.backward import backward
from hotloop.testing import differences


class Tagged(Tensor):
    """A subclass, which torch lets take part in backward passes."""

    calls: Counter[str] = Counter()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.calls[getattr(func, "__name__", "")] += 1
        return super().__torch_function__(func, types, args, kwargs or {})


def gradients_by(run: Callable[[Tensor], None], dtype: torch.dtype) -> list[Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 4)).to(dtype)
    unused = nn.Parameter(torch.ones(2, dtype=dtype))
    kept: list[Any] = []
    weight = model[0].weight
    weight.register_hook(lambda grad: grad * 3)
    model[3].bias.register_post_accumulate_grad_hook(lambda p: kept.append(p.grad.clone()))
    for _ in range(3):
        hidden = model[:2](torch.randn(5, 3, dtype=dtype))
        hidden.retain_grad()
        loss = model[2:](hidden).square().mean()
        run(loss + 0 * weight.sum())
        kept.append(hidden.grad)
    return [unused.grad, *kept, *(param.grad for param in model.parameters())]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_gradients_have_the_bits_of_torchs(dtype: torch.dtype) -> None:
    ours, theirs = (gradients_by(run, dtype) for run in (backward, torch.autograd.backward))
    assert differences(ours, theirs) == []
    assert len(ours) == 11


@pytest.fixture
def fallbacks(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Record the losses that torch's own function gets."""
    seen: list[Tensor] = []
    original = torch.autograd.backward

    @functools.wraps(original)
    def recorded(loss: Any, *args: Any, **options: Any) -> Any:
        seen.append(loss)
        return original(loss, *args, **options)

    monkeypatch.setattr(torch.autograd, "backward", recorded)
    return seen


def test_plain_losses_go_to_the_engine(fallbacks: list[Tensor]) -> None:
    x = torch.tensor(2.0, requires_grad=True)
    backward(x * x)
    assert x.grad == 4
    # A leaf is a loss too.
    backward(x)
    assert x.grad == 5
    assert fallbacks == []


def test_other_losses_go_the_usual_way(
    fallbacks: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.tensor(2.0, requires_grad=True)
    Tagged.calls.clear()
    backward((x * x).as_subclass(Tagged))
    assert Tagged.calls["backward"] == 1
    assert x.grad == 4
    # torch calls itself again for a subclass.
    assert len(fallbacks) == 2
    backward(nn.Parameter(torch.tensor(1.0)))
    backward(torch.empty((), device="meta", requires_grad=True) * 2)
    assert len(fallbacks) == 4
    monkeypatch.setattr("hotloop.loops.backward._ENGINE", None)
    backward(x * 3)
    assert len(fallbacks) == 5
    assert x.grad == 4 + 3


def twice(run: Callable[[Tensor], None]) -> None:
    loss = torch.ones(3, requires_grad=True).square().sum()
    run(loss)
    run(loss)


@pytest.mark.parametrize(
    "fail",
    [
        lambda run: run(torch.tensor(1.0)),
        lambda run: run(torch.tensor(1)),
        lambda run: run(torch.ones((), requires_grad=True).to(torch.complex64)),
        lambda run: run(torch.ones((), requires_grad=True).detach()),
        twice,
    ],
)
def test_errors_are_torchs(fail: Callable[[Any], None]) -> None:
    with pytest.raises(RuntimeError) as theirs:
        fail(torch.autograd.backward)
    with pytest.raises(RuntimeError) as ours:
        fail(backward)
    assert str(ours.value) == str(theirs.value) != ""


def test_an_exception_in_the_graph_comes_out() -> None:
    x = torch.ones((), requires_grad=True)

    def fail(grad: Tensor) -> None:
        raise KeyError("of the hook")

    y = x * 2
    y.register_hook(fail)
    with pytest.raises(KeyError, match="of the hook"):
        backward(y + 1)
    assert x.grad is None
