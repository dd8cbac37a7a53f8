"""transformers.Trainer with our optimizers in the place of torch's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hotloop.optimizers import AdamW, decay_groups
from hotloop.schedulers import (
    Constant,
    Cosine,
    CosineRestarts,
    InverseSqrt,
    Linear,
    Polynomial,
    Schedule,
    Warmup,
    WarmupStableDecay,
    as_lr_scheduler,
)
from tests.clients.conftest import Pair, needs

pytestmark = needs("transformers")

STEPS = 8


def make_model() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    # The head shares the embedding's table.
    return GPT2LMHeadModel(
        GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=40, n_positions=12)
    )


def make_trainer(folder: Path, make: Any, **options: Any) -> Any:
    from transformers import Trainer, TrainingArguments

    model = make_model()
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 40, (64, 12), generator=generator)
    data = [{"input_ids": row, "labels": row} for row in tokens]
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_grad_norm=0.5,
        logging_steps=1,
        save_steps=STEPS // 2,
        warmup_steps=2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        seed=7,
        **options,
    )
    optimizers = (None if make is None else make(model.parameters()), None)
    return Trainer(model=model, args=arguments, train_dataset=data, optimizers=optimizers)


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights(trainer: Any) -> dict[str, Tensor]:
    return {name: param.detach().clone() for name, param in trainer.model.named_parameters()}


def test_losses_and_weights_are_those_of_torch(pair: Pair, tmp_path: Path) -> None:
    runs = []
    for name, make in (("ours", pair.ours), ("theirs", pair.theirs)):
        trainer = make_trainer(tmp_path / name, make)
        trainer.train()
        runs.append((losses(trainer), weights(trainer)))
    assert len(runs[0][0]) == STEPS
    assert runs[0][0] == runs[1][0]
    assert len(set(runs[0][0])) > 1
    for name, value in runs[1][1].items():
        torch.testing.assert_close(runs[0][1][name], value, rtol=0, atol=0)


def test_resuming_from_a_checkpoint_is_not_noticed(pair: Pair, tmp_path: Path) -> None:
    first = make_trainer(tmp_path, pair.ours)
    first.train()
    second = make_trainer(tmp_path, pair.ours)
    second.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{STEPS // 2}"))
    assert losses(first) == losses(second)
    for name, value in weights(first).items():
        torch.testing.assert_close(weights(second)[name], value, rtol=0, atol=0)


def test_trainer_constructs_our_class(tmp_path: Path) -> None:
    from transformers import Trainer

    made = make_trainer(tmp_path, None)
    trainer = Trainer(
        model=made.model,
        args=made.args,
        train_dataset=made.train_dataset,
        optimizer_cls_and_kwargs=(AdamW, {"lr": 0.01}),
    )
    trainer.train()
    assert len(losses(trainer)) == STEPS
    assert isinstance(getattr(trainer.optimizer, "optimizer", trainer.optimizer), AdamW)


def test_groups_are_those_of_trainer(tmp_path: Path) -> None:
    """Trainer spares biases and norms, as we do, and decays embeddings, as we may."""
    trainer = make_trainer(tmp_path, None)
    model = trainer.model
    names = {id(param): name for name, param in model.named_parameters()}
    (decaying, others) = decay_groups(model, 0.1, decay_embeddings=True)
    assert {names[id(p)] for p in decaying["params"]} == set(
        trainer.get_decay_parameter_names(model)
    ) & set(names.values())
    total = len(decaying["params"]) + len(others["params"])
    assert total == len(list(model.parameters()))
    (decaying, _) = decay_groups(model, 0.1, no_decay=(nn.Embedding,))
    assert not any("wte" in names[id(p)] for p in decaying["params"])


def factors(make: Any, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


def test_schedules_are_those_of_transformers() -> None:
    from transformers import optimization

    warmup, total = 10, 60

    def check(make: Any, schedule: Schedule, *, ahead: int = 0, end: int = total) -> None:
        expected = factors(make, end + 20)
        got = [schedule(step) for step in range(end + 20)]
        # What lies before the peak is `ahead` updates further here.
        assert got[: warmup - ahead] == pytest.approx(expected[ahead:warmup], rel=1e-12)
        assert got[warmup:end] == pytest.approx(expected[warmup:end], rel=1e-12, abs=1e-15)

    def zero(then: Schedule) -> Schedule:
        return Warmup(warmup, include_zero=True).then(then)

    rest = total - warmup
    check(lambda o: optimization.get_constant_schedule_with_warmup(o, warmup), zero(Constant()))
    check(
        lambda o: optimization.get_linear_schedule_with_warmup(o, warmup, total), zero(Linear(rest))
    )
    check(
        lambda o: optimization.get_cosine_schedule_with_warmup(o, warmup, total), zero(Cosine(rest))
    )
    check(
        lambda o: optimization.get_polynomial_decay_schedule_with_warmup(
            o, warmup, total, lr_end=0.1, power=2.0
        ),
        zero(Polynomial(rest, 2.0, end=0.1)),
    )
    check(
        lambda o: optimization.get_cosine_with_hard_restarts_schedule_with_warmup(
            o, warmup, total, num_cycles=2
        ),
        zero(CosineRestarts(rest // 2)),
    )
    for shape, theirs in (("linear", "linear"), ("cosine", "cosine"), ("sqrt", "1-sqrt")):
        check(
            lambda o, theirs=theirs: optimization.get_wsd_schedule(
                o, warmup, 20, num_training_steps=total, decay_type=theirs
            ),
            WarmupStableDecay(total, warmup, 20, shape),
            ahead=1,
            end=total + 10,
        )
    # One update ahead throughout.
    theirs = factors(lambda o: optimization.get_inverse_sqrt_schedule(o, warmup), total + 1)
    ours = InverseSqrt(warmup)
    assert [ours(step) for step in range(total)] == pytest.approx(theirs[1:], rel=1e-12)


def test_a_schedule_drives_the_trainer(tmp_path: Path) -> None:
    from transformers import Trainer
    from transformers.optimization import get_cosine_schedule_with_warmup

    def ours(optimizer: Any) -> Any:
        schedule = Warmup(2, include_zero=True).then(Cosine(STEPS - 2))
        return as_lr_scheduler(optimizer, schedule)

    def theirs(optimizer: Any) -> Any:
        return get_cosine_schedule_with_warmup(optimizer, 2, STEPS)

    runs = []
    for name, make in (("ours", ours), ("theirs", theirs)):
        made = make_trainer(tmp_path / name, None)
        optimizer = AdamW(made.model.parameters(), lr=0.01)
        trainer = Trainer(
            model=made.model,
            args=made.args,
            train_dataset=made.train_dataset,
            optimizers=(optimizer, make(optimizer)),
        )
        trainer.train()
        rates = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
        runs.append((losses(trainer), rates))
    assert runs[0][0] == runs[1][0]
    assert runs[0][1] == pytest.approx(runs[1][1], rel=1e-12)
    assert max(runs[0][1]) == 0.01
    resumed = make_trainer(tmp_path / "ours", None)
    optimizer = AdamW(resumed.model.parameters(), lr=0.01)
    trainer = Trainer(
        model=resumed.model,
        args=resumed.args,
        train_dataset=resumed.train_dataset,
        optimizers=(optimizer, ours(optimizer)),
    )
    trainer.train(resume_from_checkpoint=str(tmp_path / "ours" / f"checkpoint-{STEPS // 2}"))
    assert losses(trainer) == runs[0][0]
