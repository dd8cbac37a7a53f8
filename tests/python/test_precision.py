"""Autocast and loss scaling, activation checkpoints, and torch's switches."""

from __future__ import annotations

import copy
import math
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hotloop import HotloopError, OverflowStreakError
from hotloop.precision import Precision, checkpoint_activations, numerics

# Precision


def test_fp32_reuses_one_context_that_does_nothing() -> None:
    precision = Precision()
    assert precision.context() is precision.context()
    with precision.context(), precision.context():
        assert not torch.is_autocast_enabled("cpu")
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert precision.scaler is None


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_context_casts_and_can_be_nested(name: str, dtype: torch.dtype) -> None:
    precision = Precision(name)
    ones = torch.ones(2, 2)
    for _ in range(2):
        with precision.context():
            assert (ones @ ones).dtype == dtype
            with precision.context():
                assert (ones @ ones).dtype == dtype
            assert (ones @ ones).dtype == dtype
        assert not torch.is_autocast_enabled("cpu")
        assert (ones @ ones).dtype == torch.float32


def test_only_fp16_scales() -> None:
    assert Precision("bf16").scaler is None
    scaler = Precision("fp16", init_scale=8.0, growth_interval=3).scaler
    assert scaler is not None
    assert scaler.get_scale() == 8
    assert scaler.get_growth_interval() == 3


@pytest.mark.parametrize(
    ("device", "has_bf16", "name"),
    [("cpu", True, "fp32"), ("cuda", True, "bf16"), ("cuda", False, "fp16")],
)
def test_auto_takes_what_the_hardware_has(
    device: str, has_bf16: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return has_bf16 or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    precision = Precision("auto", device)
    assert precision.name == name
    assert precision.device == torch.device(device)
    assert (precision.scaler is not None) == (name == "fp16")


def train(precision: Precision, steps: int, *, bad: tuple[int, ...] = ()) -> list[float]:
    """Train a small model and return its losses; the gradient of a bad step is infinite."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    inputs = torch.randn(16, 4)
    target = inputs.sum(1, keepdim=True)
    losses = []
    for step in range(steps):
        with precision.context():
            loss = nn.functional.mse_loss(model(inputs).float(), target)
        losses.append(loss.item())
        optimizer.zero_grad()
        if precision.scaler is None:
            loss.backward()
            optimizer.step()
            precision.record(True)
            continue
        precision.scaler.scale(loss).backward()
        if step in bad:
            weight = model[0].weight.grad
            assert isinstance(weight, Tensor)
            weight[0, 0] = math.inf
        scale = precision.scaler.get_scale()
        precision.scaler.step(optimizer)
        precision.scaler.update()
        precision.record(precision.scaler.get_scale() >= scale)
    return losses


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_a_run_in_half_precision_follows_the_one_in_float32(name: str) -> None:
    expected = train(Precision(), 20)
    precision = Precision(name, init_scale=1024.0)
    losses = train(precision, 20)
    assert precision.overflows == 0
    assert losses != expected
    # bfloat16 rounds to 8 bits.
    assert losses == pytest.approx(expected, rel=0.05)
    assert losses[-1] < losses[0] / 2


def test_an_overflow_halves_the_scale_and_is_counted() -> None:
    precision = Precision("fp16", init_scale=1024.0)
    losses = train(precision, 5, bad=(1, 2))
    assert precision.scaler is not None
    assert precision.scaler.get_scale() == 256
    assert (precision.overflows, precision.streak) == (2, 0)
    assert losses[1] == losses[2] == losses[3] != losses[4]


def test_too_many_overflows_in_a_row_raise() -> None:
    precision = Precision("fp16", init_scale=1024.0, max_overflows=2)
    for is_applied in (False, False, True, False, False):
        precision.record(is_applied)
    assert (precision.overflows, precision.streak) == (4, 2)
    with pytest.raises(OverflowStreakError, match=r"^3 updates in a row.*scale is down to 1024"):
        precision.record(False)
    assert issubclass(OverflowStreakError, HotloopError)
    assert issubclass(OverflowStreakError, ArithmeticError)


def test_without_a_scaler_nothing_is_counted() -> None:
    precision = Precision("bf16", max_overflows=0)
    precision.record(False)
    assert (precision.overflows, precision.streak) == (0, 0)


def test_a_state_goes_on_where_it_was_taken() -> None:
    precision = Precision("fp16", init_scale=1024.0, growth_interval=5)
    train(precision, 4, bad=(0, 3))
    state = precision.state_dict()
    loaded = Precision("fp16", growth_interval=5)
    loaded.load_state_dict(pickle.loads(pickle.dumps(state)))
    assert loaded.state_dict() == state
    assert (loaded.overflows, loaded.streak) == (2, 1)
    for one in (precision, loaded):
        train(one, 6)
    assert loaded.state_dict() == precision.state_dict()
    assert loaded.scaler is not None
    assert loaded.scaler.get_scale() == 512


def test_the_state_of_another_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="of precision 'fp16' and this one is 'bf16'"):
        Precision("bf16").load_state_dict(Precision("fp16").state_dict())
    precision = Precision("bf16")
    precision.load_state_dict(Precision("bf16").state_dict())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"name": "fp8"}, "unknown precision 'fp8'.*auto, bf16, fp16, fp32"),
        ({"init_scale": 0.0}, "init_scale must be finite and above 0, got 0.0"),
        ({"init_scale": math.inf}, "init_scale must be finite and above 0, got inf"),
        ({"growth_interval": 0}, "growth_interval must be an int of at least 1, got 0"),
        ({"max_overflows": -1}, "max_overflows must be an int of at least 0, got -1"),
    ],
)
def test_precision_checks_its_arguments(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Precision(**options)


def test_precision_has_a_repr() -> None:
    assert repr(Precision()) == "Precision('fp32', 'cpu')"
    assert repr(Precision("fp16")) == "Precision('fp16', 'cpu', overflows=0)"


# Activation checkpoints


class Block(nn.Module):
    """Keeps activations, draws random numbers and counts its calls."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Linear(width, 4 * width)
        self.second = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(0.3)
        self.calls = 0

    def forward(self, inputs: Tensor, *, debug: float = 1.0) -> Tensor:
        self.calls += 1
        hidden = self.dropout(torch.tanh(self.first(inputs)))
        return inputs + debug * self.second(hidden)


class Model(nn.Module):
    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.head = nn.Linear(16, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        for block in self.blocks:
            # A keyword that torch's checkpoint has too.
            inputs = block(inputs, debug=0.5)
        return self.head(inputs)

    @property
    def calls(self) -> list[int]:
        return [block.calls for block in self.blocks]  # type: ignore[misc]


def gradients(model: nn.Module) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(7)
    model.zero_grad()
    output = model(torch.randn(8, 16))
    output.square().mean().backward()
    return output.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def same(one: tuple[Tensor, list[Tensor]], other: tuple[Tensor, list[Tensor]]) -> bool:
    pairs = zip(one[1], other[1], strict=True)
    return one[0].equal(other[0]) and all(a.equal(b) for a, b in pairs)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_gradients_are_the_same_bit_for_bit(every: int) -> None:
    model = Model()
    expected = gradients(model)
    handle = checkpoint_activations(model, Block, every=every)
    assert handle.names == tuple(f"blocks.{index}" for index in range(0, 4, every))
    assert same(gradients(model), expected)
    # Without and with the checkpoints: one forward, and another two where there is one.
    assert model.calls == [3 if index % every == 0 else 2 for index in range(4)]


def test_gradients_are_the_same_under_autocast() -> None:
    model, precision = Model(), Precision("bf16")
    with precision.context():
        expected = gradients(model)
        with checkpoint_activations(model, Block):
            assert same(gradients(model), expected)


def test_fewer_bytes_are_kept() -> None:
    def bytes_kept(model: nn.Module) -> int:
        sizes: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = model(torch.randn(8, 16))
        del output
        parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
        return sum(size for pointer, size in sizes.items() if pointer not in parameters)

    model = Model()
    plain = bytes_kept(model)
    with checkpoint_activations(model, Block, every=2):
        half = bytes_kept(model)
    with checkpoint_activations(model, Block):
        all_blocks = bytes_kept(model)
    hidden = 8 * 4 * 16 * 4
    assert plain - half >= 2 * hidden
    assert half - all_blocks >= 2 * hidden


def test_the_model_tree_stays_as_it_is() -> None:
    model = Model()
    keys, names = list(model.state_dict()), [name for name, _ in model.named_modules()]
    text = repr(model)
    handle = checkpoint_activations(model, (Block, nn.Linear))
    assert list(model.state_dict()) == keys
    assert [name for name, _ in model.named_modules()] == names
    assert repr(model) == text
    handle.remove()
    assert all("forward" not in module.__dict__ for module in model.modules())


def test_remove_restores_the_forward_that_was_there() -> None:
    model = Model()
    block = model.blocks[1]
    assert isinstance(block, Block)

    def doubled(inputs: Tensor, *, debug: float = 1.0) -> Tensor:
        return 2 * Block.forward(block, inputs, debug=debug)

    block.forward = doubled  # type: ignore[method-assign]
    expected = gradients(model)
    with checkpoint_activations(model, Block):
        assert block.forward is not doubled
        assert same(gradients(model), expected)
        assert block.calls == 3
    assert block.forward is doubled
    assert same(gradients(model), expected)
    assert model.calls == [4, 4, 4, 4]


def test_a_block_is_checkpointed_once() -> None:
    model = Model()
    outer = checkpoint_activations(model, Block, every=2)
    with checkpoint_activations(model, Block) as inner:
        assert inner.names == ("blocks.1", "blocks.3")
        gradients(model)
        assert model.calls == [2, 2, 2, 2]
    gradients(model)
    assert model.calls == [4, 3, 4, 3]
    outer.remove()
    outer.remove()
    gradients(model)
    assert model.calls == [5, 4, 5, 4]


def test_checkpoints_are_removed_after_an_error() -> None:
    model = Model()
    with pytest.raises(KeyError), checkpoint_activations(model, Block):
        raise KeyError
    assert all("forward" not in module.__dict__ for module in model.modules())


def test_remove_refuses_a_forward_that_was_replaced() -> None:
    model = Model()
    handle = checkpoint_activations(model, Block)
    wrapped = model.blocks[2].forward
    model.blocks[2].forward = lambda inputs, **options: wrapped(inputs, **options)
    with pytest.raises(RuntimeError, match=r"block 'blocks\.2' was replaced"):
        handle.remove()
    model.blocks[2].forward = wrapped
    handle.remove()
    assert all("forward" not in module.__dict__ for module in model.modules())


def test_torchs_checkpoint_is_left_out_in_evaluation_and_without_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, calls = Model(), []

    def checkpoint(forward: Callable[..., Tensor], *args: Tensor, **options: bool) -> Tensor:
        calls.append(options)
        return forward(*args)

    module = sys.modules["hotloop.precision.checkpoint_activations"]
    monkeypatch.setattr(module, "checkpoint", checkpoint)
    with checkpoint_activations(model, Block):
        model.eval()
        gradients(model)
        model.train()
        with torch.no_grad():
            model(torch.randn(8, 16))
        assert not calls
        gradients(model)
        assert calls == [{"use_reentrant": False, "preserve_rng_state": True}] * 4


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_is_checkpointed_by_itself(how: str) -> None:
    model = Model()
    expected = gradients(model)
    checkpoint_activations(model, Block)
    twin = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert same(gradients(twin), expected)
    assert model.calls == [1, 1, 1, 1]
    assert twin.calls == [3, 3, 3, 3]
    for block in twin.blocks:
        del block.forward
    assert same(gradients(twin), expected)
    assert twin.calls == [4, 4, 4, 4]


def test_a_model_without_such_blocks_says_what_it_has() -> None:
    with pytest.raises(ValueError, match=r"got Conv2d, GRU; it has Block, Dropout, Linear, Model"):
        checkpoint_activations(Model(), (nn.Conv2d, nn.GRU))
    with pytest.raises(ValueError, match="every must be a positive int, got 0"):
        checkpoint_activations(Model(), Block, every=0)


class NormBlock(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Linear(16, 16), nn.Tanh())


def test_batch_norm_in_a_block_is_warned_of() -> None:
    model = nn.Sequential(NormBlock(), NormBlock())
    with pytest.warns(UserWarning, match="blocks '0', '1' contain BatchNorm"):
        handle = checkpoint_activations(model, NormBlock)
    gradients(model)
    assert [int(block[1].num_batches_tracked) for block in model] == [2, 2]
    handle.remove()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoint_activations(model, nn.Linear).remove()


# Numerics


def switches() -> tuple[Any, ...]:
    backends: Any = torch.backends
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        backends.cudnn.deterministic,
        backends.cudnn.benchmark,
        backends.cuda.matmul.fp32_precision,
        backends.cudnn.conv.fp32_precision,
        backends.cudnn.rnn.fp32_precision,
    )


@pytest.fixture(autouse=True)
def _kept_switches() -> Iterator[None]:
    before = switches()
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    backends: Any = torch.backends
    backends.cudnn.deterministic, backends.cudnn.benchmark = before[2:4]
    backends.cuda.matmul.fp32_precision = before[4]
    backends.cudnn.conv.fp32_precision, backends.cudnn.rnn.fp32_precision = before[5:]


@pytest.mark.parametrize("start", ["default", "all on", "mixed"])
@pytest.mark.parametrize("deterministic", [None, True, False])
@pytest.mark.parametrize("tf32", [None, True, False])
def test_switches_are_set_and_put_back(
    start: str, deterministic: bool | None, tf32: bool | None
) -> None:
    backends: Any = torch.backends
    if start == "all on":
        torch.use_deterministic_algorithms(True)
        backends.cudnn.deterministic = backends.cudnn.benchmark = True
        backends.cuda.matmul.fp32_precision = "tf32"
    if start == "mixed":
        torch.use_deterministic_algorithms(True, warn_only=True)
        backends.cudnn.benchmark = True
        backends.cudnn.conv.fp32_precision = "ieee"
    before = switches()
    with numerics(deterministic=deterministic, tf32=tf32):
        inside = switches()
        if deterministic is None:
            assert inside[:4] == before[:4]
        else:
            benchmark = before[3] and not deterministic
            assert inside[:4] == (deterministic, False, deterministic, benchmark)
        expected = before[4:] if tf32 is None else ("tf32" if tf32 else "ieee",) * 3
        assert inside[4:] == expected
        with numerics(deterministic=True, tf32=False):
            assert switches() == (True, False, True, False, "ieee", "ieee", "ieee")
        assert switches() == inside
    assert switches() == before


def test_switches_are_put_back_after_an_error() -> None:
    before = switches()
    with pytest.raises(ZeroDivisionError), numerics(deterministic=True, tf32=True):
        print(1 / (before == switches()))
    assert switches() == before


def test_torchs_older_flags_can_be_read_after_the_block() -> None:
    backends: Any = torch.backends
    before = (
        backends.cuda.matmul.allow_tf32,
        backends.cudnn.allow_tf32,
        torch.get_float32_matmul_precision(),
    )
    with numerics(tf32=True):
        pass
    with numerics(tf32=False):
        pass
    assert before == (
        backends.cuda.matmul.allow_tf32,
        backends.cudnn.allow_tf32,
        torch.get_float32_matmul_precision(),
    )


def test_deterministic_algorithms_are_really_on_in_the_block() -> None:
    inputs, index = torch.zeros(4), torch.tensor([0, 0])
    # `put_` has no deterministic algorithm on the CPU either.
    with numerics(deterministic=True), pytest.raises(RuntimeError, match="deterministic"):
        inputs.put_(index, torch.ones(2))
    inputs.put_(index, torch.ones(2))
