"""`WeightAverage` against `torch.optim.swa_utils`, and where that has no word."""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from hotloop.optimizers import AdamW, WeightAverage

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
STEPS = 16


class Net(nn.Module):
    """Linear, batch norm, a tied head, a frozen layer, and buffers of several dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.norm = nn.BatchNorm1d(4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.ones(3, dtype=torch.float64))
        self.register_buffer("hidden", torch.zeros(2), persistent=False)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.scale.mul_(1.01)
        # As many modules do, instead of writing in place.
        self.hidden = self.hidden * 0.5 + 1
        return self.head(self.frozen(self.norm(self.embed(x))))


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randint(0, 7, (9,))).square().mean().backward()
    optimizer.step()


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def values(average: WeightAverage) -> dict[str, Tensor]:
    return average.state_dict()["averages"]


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor], **tolerance: float) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], **(tolerance or {"rtol": 0, "atol": 0}))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("decay", [0.0, 0.3, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("average_buffers", [False, True])
@pytest.mark.parametrize("is_fused", [False, True])
def test_moving_average_has_the_bits_of_averaged_model(
    dtype: torch.dtype, decay: float, average_buffers: bool, is_fused: bool
) -> None:
    model = Net().to(dtype)
    optimizer = AdamW(model.parameters(), lr=0.01)
    ours = WeightAverage(model, decay, average_buffers=average_buffers)
    theirs = AveragedModel(
        model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=average_buffers
    )
    for _ in range(STEPS):
        train(model, optimizer)
        if is_fused:
            optimizer.fused_step(average=ours)
        else:
            ours.update()
        theirs.update_parameters(model)
    expected = tensors(theirs.module)
    # torch decays integers, too, and truncates them.
    for name in ("count", "norm.num_batches_tracked"):
        expected[name] = tensors(model)[name]
    assert_same(values(ours), expected)
    assert ours.updates == STEPS


# torch rounds the weight 1 / t of the mean to float32.
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float32, {"rtol": 0.0, "atol": 0.0}),
        (torch.bfloat16, {"rtol": 0.0, "atol": 0.0}),
        (torch.float64, {"rtol": 1e-6, "atol": 1e-8}),
    ],
    ids=str,
)
def test_mean_is_that_of_averaged_model(dtype: torch.dtype, tolerance: dict[str, float]) -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)).to(dtype)
    optimizer = AdamW(model.parameters(), lr=0.1)
    ours = WeightAverage(model, None)
    theirs = AveragedModel(model, multi_avg_fn=get_swa_multi_avg_fn())
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(torch.randn(4, 3, dtype=dtype)).square().mean().backward()
        optimizer.step()
        ours.update()
        theirs.update_parameters(model)
    assert_same(values(ours), tensors(theirs.module), **tolerance)


def test_mean_is_the_arithmetic_mean() -> None:
    model = nn.ParameterList([torch.zeros(5, dtype=torch.float64)])
    average = WeightAverage(model, None)
    history = []
    for _ in range(STEPS):
        with torch.no_grad():
            model[0].copy_(torch.randn(5))
        history.append(model[0].detach().clone())
        average.update()
    torch.testing.assert_close(
        average.averages[model[0]], torch.stack(history).mean(0), rtol=1e-13, atol=1e-14
    )


def test_warmup_follows_its_formula() -> None:
    model = nn.ParameterList([torch.zeros((), dtype=torch.float64)])
    average = WeightAverage(model, 0.5, warmup=True)
    expected = 0.0
    for t in range(1, 20):
        with torch.no_grad():
            model[0].fill_(float(t))
        d = 0.0 if t == 1 else min(0.5, t / (9 + t))
        expected = d * expected + (1 - d) * t
        assert average.next_weight == pytest.approx(1 - d, abs=1e-15)
        average.update()
        assert float(average.averages[model[0]]) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("average_buffers", [False, True])
def test_swap_lends_the_averages_and_restores_the_bits(average_buffers: bool) -> None:
    model = Net()
    optimizer = AdamW(model.parameters(), lr=0.1)
    average = WeightAverage(model, 0.9, average_buffers=average_buffers)
    for _ in range(5):
        train(model, optimizer)
        average.update()
    with torch.no_grad():
        model.norm.weight[0] = math.nan
        model.norm.weight[1] = -0.0
    before = {name: tensor.clone() for name, tensor in tensors(model).items()}
    parameters = list(model.parameters())
    kept = copy.deepcopy(values(average))
    with average.swap():
        assert_same(tensors(model), kept)
        assert model.head.weight is model.embed.weight
        model(torch.randint(0, 7, (9,)))  # Moves the statistics.
        with torch.no_grad():
            model.head.weight.zero_()
    for name, tensor in tensors(model).items():
        assert tensor.numpy(force=True).tobytes() == before[name].numpy(force=True).tobytes(), name
    assert all(a is b for a, b in zip(model.parameters(), parameters))
    assert_same(values(average), kept)
    train(model, optimizer)


def test_swap_restores_after_an_exception() -> None:
    model = Net()
    average = WeightAverage(model, 0.9)
    with torch.no_grad():
        model.frozen.weight.add_(1)
    before = {name: tensor.clone() for name, tensor in tensors(model).items()}

    def validate() -> None:
        with average.swap():
            assert not torch.equal(model.frozen.weight, before["frozen.weight"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        validate()
    assert_same(tensors(model), before)


def test_a_buffer_that_its_module_replaces_is_followed() -> None:
    model = nn.Module()
    model.register_buffer("mean", torch.zeros(2))
    average = WeightAverage(model, 0.5, average_buffers=True)
    average.update()
    model.mean = torch.ones(2)
    average.update()
    assert values(average)["mean"].tolist() == [0.5, 0.5]
    with average.swap():
        assert model.mean.tolist() == [0.5, 0.5]
    assert model.mean.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("average_buffers", [False, True])
def test_integers_are_copied_and_complex_numbers_averaged(average_buffers: bool) -> None:
    model = nn.Module()
    model.codes = nn.Parameter(torch.tensor([1, 2]), requires_grad=False)
    model.wave = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    model.register_buffer("count", torch.tensor(0))
    model.register_buffer("phase", torch.zeros(1, dtype=torch.complex128))
    average = WeightAverage(model, 0.5, average_buffers=average_buffers)
    average.update()
    with torch.no_grad():
        model.codes.add_(3)
        model.wave.fill_(2j)
        model.count.fill_(7)
        model.phase.fill_(4j)
    average.update()
    got = {name: tensor.tolist() for name, tensor in values(average).items()}
    assert got == {
        "codes": [4, 5],
        "wave": [1j, 1j],
        "count": 7,
        "phase": [2j if average_buffers else 4j],
    }


def test_channels_last_weights_are_averaged() -> None:
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = AdamW(model.parameters(), lr=0.1)
    average = WeightAverage(model, 0.5)
    expected = model.weight.detach().clone()
    for step in range(3):
        with torch.no_grad():
            model.weight.add_(1)
        if step % 2:
            optimizer.fused_step(average=average)
        else:
            average.update()
        expected.lerp_(model.weight.detach(), 1.0 if step == 0 else 0.5)
    torch.testing.assert_close(average.averages[model.weight], expected, rtol=0, atol=0)


def test_done_parameters_are_left_alone() -> None:
    model = nn.ParameterList([torch.zeros(2), torch.zeros(2)])
    average = WeightAverage(model, 0.5)
    with torch.no_grad():
        for param in model:
            param.fill_(1.0)
    average.update(done={model[0]})
    assert [tensor.tolist() for tensor in values(average).values()] == [[0.0, 0.0], [1.0, 1.0]]
    assert average.updates == 1


def test_state_dict_resumes_bit_for_bit() -> None:
    runs = []
    for is_interrupted in (False, True):
        torch.manual_seed(0)
        model = Net()
        optimizer = AdamW(model.parameters(), lr=0.1)
        average = WeightAverage(model, 0.9, warmup=True)
        for step in range(8):
            if is_interrupted and step == 4:
                buffer = io.BytesIO()
                torch.save(average.state_dict(), buffer)
                buffer.seek(0)
                average = WeightAverage(model, 0.9, warmup=True)
                average.load_state_dict(torch.load(buffer, weights_only=True))
            train(model, optimizer)
            optimizer.fused_step(average=average)
        assert average.updates == 8
        runs.append(copy.deepcopy(values(average)))
    assert_same(*runs)


def damage(kind: str, averages: dict[str, Tensor]) -> None:
    if kind == "missing":
        del averages["frozen.bias"]
    elif kind == "unknown":
        averages["other"] = torch.zeros(1)
    else:
        averages["frozen.bias"] = torch.zeros(4, 1)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("missing", "frozen.bias"), ("unknown", "other"), ("shape", "frozen.bias")],
)
def test_a_state_dict_of_another_model_is_refused_whole(kind: str, name: str) -> None:
    model = Net()
    average = WeightAverage(model, 0.9)
    before = copy.deepcopy(values(average))
    state = copy.deepcopy(average.state_dict())
    state["updates"] = 5
    for tensor in state["averages"].values():
        tensor.add_(1)
    damage(kind, state["averages"])
    with pytest.raises(ValueError, match=f"does not fit the model: {name}"):
        average.load_state_dict(state)
    assert average.updates == 0
    assert_same(values(average), before)


@pytest.mark.parametrize("updates", [-1, 1.5, "3"])
def test_a_count_of_updates_that_is_none_is_refused(updates: Any) -> None:
    average = WeightAverage(nn.Linear(2, 2))
    state = copy.deepcopy(average.state_dict()) | {"updates": updates}
    with pytest.raises(ValueError, match="updates must be an integer of at least 0"):
        average.load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": -0.1}, "decay must be in"),
        ({"decay": 1.0}, "decay must be in"),
        ({"decay": math.nan}, "decay must be in"),
        ({"decay": None, "warmup": True}, "warmup=True needs a decay"),
    ],
)
def test_bad_arguments_raise(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WeightAverage(nn.Linear(2, 2), **options)


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_follows_the_copied_model(copier: Any) -> None:
    model = Net()
    average = WeightAverage(model, 0.5)
    average.update()
    other, its_average = copier((model, average))
    with torch.no_grad():
        for param in other.parameters():
            param.add_(1)
    before = copy.deepcopy(values(average))
    its_average.update()
    assert_same(values(average), before)
    for name, param in other.named_parameters():
        expected = before[name].lerp(param.detach(), 0.5)
        torch.testing.assert_close(values(its_average)[name], expected, rtol=0, atol=0)
    assert its_average.averages.keys() == set(other.parameters())


def test_tied_weights_have_one_average() -> None:
    model = Net()
    average = WeightAverage(model)
    assert "head.weight" not in values(average)
    assert len(average.averages) == len(list(model.parameters()))


def test_averages_have_no_graph() -> None:
    model = nn.Linear(2, 2)
    average = WeightAverage(model, 0.5)
    for _ in range(2):
        average.update()
    assert not any(tensor.requires_grad for tensor in average.averages.values())
