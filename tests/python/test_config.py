"""Settings: their ranges, the files that hold them, and cadences."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from hotloop.config import Cadence, TrainingConfig

DEFAULTS = {field.name: field.default for field in dataclasses.fields(TrainingConfig)}
DEFAULTS["optimizer_options"] = {}

OTHERS: dict[str, Any] = {
    "epochs": 3,
    "max_steps": 100,
    "max_seconds": 1.5,
    "batch_size": 8,
    "optimizer": "sgd",
    "learning_rate": 1e-5,
    "weight_decay": 0.0,
    "optimizer_options": {"betas": [0.9, 0.95], "nested": {"rows": [1, [2.5, None]]}},
    "scheduler": {"name": "cosine", "end": 0.1},
    "warmup": 0.05,
    "clip_norm": math.inf,
    "clip_value": 2.0,
    "accumulate": 4,
    "precision": "bf16",
    "average_decay": 0.99,
    "nonfinite": "skip",
    "max_rollbacks": 0,
    "early_stopping": 2,
    "monitor": "train_loss",
    "monitor_mode": "max",
    "log_every": 7,
    "validate_every": None,
    "save_every": "0.25 epochs",
    "seed": 3,
    "device": "cpu",
    "deterministic": True,
    "tf32": False,
    "progress": False,
    "fast_dev_run": 2,
    "overfit_batches": 0.5,
    "limit_train_batches": 10,
    "limit_val_batches": 1.0,
    "limit_test_batches": 1,
}

POSITIVE_INT = "a positive int"
COUNTS = {
    "epochs": (1, f"{POSITIVE_INT}, or None"),
    "max_steps": (1, f"{POSITIVE_INT}, or None"),
    "early_stopping": (1, f"{POSITIVE_INT}, or None"),
    "batch_size": (1, POSITIVE_INT),
    "accumulate": (1, POSITIVE_INT),
    "fast_dev_run": (0, "an int of at least 0"),
    "max_rollbacks": (0, "an int of at least 0"),
    "seed": (0, "an int of at least 0, or None"),
}
# Name: whether 0 is in its range, and inf; what is allowed.
NUMBERS = {
    "max_seconds": (False, False, "above 0 and finite, or None"),
    "clip_value": (False, False, "above 0 and finite, or None"),
    "clip_norm": (True, True, "at least 0, or None"),
    "learning_rate": (True, False, "at least 0 and finite"),
    "weight_decay": (True, False, "at least 0 and finite, or None"),
    "warmup": (True, False, "at least 0 and finite"),
    "average_decay": (True, False, "at least 0 and finite, or None"),
}
BATCHES = ["overfit_batches", "limit_train_batches", "limit_val_batches", "limit_test_batches"]
CADENCES = ["log_every", "validate_every", "save_every"]
CHOICES = {
    "precision": (["auto", "bf16", "fp16", "fp32"], "fp3", "fp32"),
    "nonfinite": (["raise", "rollback", "skip"], "skips", "skip"),
    "monitor_mode": (["max", "min"], "maxi", "max"),
}
KINDS: dict[str, tuple[str, list[Any]]] = {
    "optimizer": ("a str", [5, None]),
    "optimizer_options": ("a mapping", [[("lr", 1)], None]),
    "scheduler": ("a str, a mapping or None", [3.0, ["cosine"]]),
    "monitor": ("a str", [None, 1]),
    "device": ("a str or None", [0]),
    "deterministic": ("a bool or None", [1, "yes"]),
    "tf32": ("a bool or None", [0, "no"]),
    "progress": ("a bool", [None, 1]),
}


def bad_values() -> list[tuple[str, Any, str]]:
    bad: list[tuple[str, Any, str]] = []
    for name, (least, allowed) in COUNTS.items():
        bad += [(name, value, allowed) for value in (least - 1, 1.0, True, "3")]
        if "None" not in allowed:
            bad.append((name, None, allowed))
    for name, (has_zero, has_inf, allowed) in NUMBERS.items():
        bad += [(name, value, allowed) for value in (-1e-9, math.nan, True, "0.5")]
        bad += [] if has_zero else [(name, 0, allowed)]
        bad += [] if has_inf else [(name, math.inf, allowed)]
        if "None" not in allowed:
            bad.append((name, None, allowed))
    for name in BATCHES:
        bad += [(name, 0, f"{POSITIVE_INT}, or None"), (name, "all", f"{POSITIVE_INT}, or None")]
        bad += [
            (name, value, "an int, a float in (0, 1] or None")
            for value in (0.0, 1.5, -0.5, math.nan, True)
        ]
    for name, (allowed, values) in KINDS.items():
        bad += [(name, value, allowed) for value in values]
    return bad


def with_setting(name: str, value: Any) -> TrainingConfig:
    settings: dict[str, Any] = {name: value}
    return TrainingConfig(**settings)


def test_every_setting_has_a_range() -> None:
    tables = [*COUNTS, *NUMBERS, *BATCHES, *CADENCES, *CHOICES, *KINDS]
    assert sorted(tables) == sorted(DEFAULTS)


@pytest.mark.parametrize(("name", "value", "allowed"), bad_values())
def test_values_out_of_range_are_named(name: str, value: Any, allowed: str) -> None:
    message = f"{name} must be {allowed}, got {value!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        with_setting(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, least) for name, (least, _) in COUNTS.items()),
        *((name, None) for name, (_, allowed) in COUNTS.items() if "None" in allowed),
        *((name, 0) for name, (has_zero, _, _) in NUMBERS.items() if has_zero),
        *((name, None) for name, (_, _, allowed) in NUMBERS.items() if "None" in allowed),
        *((name, 5e-324) for name in NUMBERS),
        *((name, value) for name in BATCHES for value in (1, 10**9, 5e-324, 1.0, None)),
        *((name, value) for name, (values, _, _) in CHOICES.items() for value in values),
        *((name, value) for name in CADENCES for value in (1, "1 step", "0.5 epochs")),
        *((name, value) for name in ("deterministic", "tf32") for value in (True, False, None)),
        *((name, value) for name in ("progress",) for value in (True, False)),
        ("validate_every", None),
        ("save_every", None),
        ("clip_norm", math.inf),
        ("seed", 2**64 - 1),
        ("warmup", 1.0),
        ("warmup", 10**9),
        ("average_decay", math.nextafter(1, 0)),
        ("optimizer_options", {}),
        ("scheduler", "cosine"),
        ("scheduler", {"name": "cosine"}),
        ("scheduler", None),
        ("device", "cuda:0"),
        ("device", None),
    ],
)
def test_values_at_the_ends_of_a_range_are_in_it(name: str, value: Any) -> None:
    kept = getattr(with_setting(name, value), name)
    assert (kept, type(kept)) == (value, type(value))


@pytest.mark.parametrize("value", [1, 1.0, 2.5])
def test_a_decay_of_one_would_never_move(value: float) -> None:
    with pytest.raises(ValueError, match=rf"average_decay must be in \[0, 1\), .* got {value}"):
        TrainingConfig(average_decay=value)


def test_a_fraction_of_the_run_is_at_most_all_of_it() -> None:
    with pytest.raises(ValueError, match=r"warmup must be an int, .* float in \[0, 1\].* got 1.5"):
        TrainingConfig(warmup=1.5)


def test_a_seed_fits_into_a_generator() -> None:
    with pytest.raises(ValueError, match=rf"seed must be below 2\*\*64, .* got {2**64}"):
        TrainingConfig(seed=2**64)


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_that_does_not_exist_names_the_nearest(name: str) -> None:
    choices, typo, nearest = CHOICES[name]
    allowed = f"it is one of {', '.join(choices)}"
    message = rf"unknown {name} '{typo}' \(did you mean '{nearest}'\?\); {allowed}$"
    with pytest.raises(ValueError, match=message):
        with_setting(name, typo)
    with pytest.raises(ValueError, match=f"unknown {name} '7'; {allowed}"):
        with_setting(name, 7)


@pytest.mark.parametrize("name", CADENCES)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("often", "a cadence must be a number of steps or a text such as .* got 'often'"),
        (2.5, "a cadence must be a number of steps or a text such as .* got 2.5"),
        (0, "amount must be above 0 and finite, got 0"),
        ("0 steps", "amount must be above 0 and finite, got 0.0"),
        ("1.5 epochs", "amount must be a whole number of epochs, got 1.5"),
    ],
)
def test_a_cadence_that_is_none_is_named(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: {message}"):
        with_setting(name, value)


def test_windows_always_have_a_cadence() -> None:
    with pytest.raises(ValueError, match=r"^log_every: a cadence must be .* got None"):
        TrainingConfig(log_every=None)  # type: ignore[arg-type]


def test_a_number_that_yaml_takes_for_a_text_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("learning_rate: 1e-3\n")
    message = "learning_rate must be at least 0 and finite, got '1e-3'; in YAML write 1.0e-3 for"
    with pytest.raises(ValueError, match=message):
        TrainingConfig.load(path)
    path.write_text("learning_rate: 1.0e-3\n")
    assert TrainingConfig.load(path).learning_rate == 1e-3
    with pytest.raises(ValueError, match=r"got -1$"):
        TrainingConfig(learning_rate=-1)


# The whole


def test_defaults_are_the_documented_ones() -> None:
    assert TrainingConfig().to_dict() == DEFAULTS
    assert TrainingConfig.from_dict({}) == TrainingConfig()


def test_configs_are_frozen_and_share_nothing() -> None:
    config = TrainingConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.epochs = 2  # type: ignore[misc]
    options: dict[str, Any] = {"betas": [0.9, 0.95]}
    config = TrainingConfig(optimizer_options=options)
    options["betas"].append(1)
    config.to_dict()["optimizer_options"]["betas"].append(2)
    assert config.optimizer_options == {"betas": [0.9, 0.95]}
    other = dataclasses.replace(config, epochs=4)
    assert other.optimizer_options == config.optimizer_options
    assert other.optimizer_options is not config.optimizer_options
    assert TrainingConfig().optimizer_options is not TrainingConfig().optimizer_options


def write_dict(config: TrainingConfig, path: Path) -> TrainingConfig:
    return TrainingConfig.from_dict(config.to_dict())


def write_file(config: TrainingConfig, path: Path) -> TrainingConfig:
    config.save(path)
    return TrainingConfig.load(str(path))


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_dict, ""),
        (write_file, "run.json"),
        (write_file, "run.yaml"),
        (write_file, "run.yml"),
    ],
)
def test_every_setting_comes_back(write: Callable[..., Any], name: str, tmp_path: Path) -> None:
    assert list(OTHERS) == list(DEFAULTS)
    assert all(OTHERS[field] != default for field, default in DEFAULTS.items())
    config = TrainingConfig(**OTHERS)
    assert config.to_dict() == OTHERS
    again = write(config, tmp_path / name)
    assert again == config
    for field, value in again.to_dict().items():
        assert (value, type(value)) == (OTHERS[field], type(OTHERS[field]))
    assert again != dataclasses.replace(config, seed=4)


@pytest.mark.parametrize("name", ["run.json", "run.yaml"])
def test_what_is_not_plain_becomes_it_before_it_is_saved(name: str, tmp_path: Path) -> None:
    config = TrainingConfig(
        learning_rate=np.float64(0.1),
        optimizer_options={"betas": (0.9, (0.95, np.float64(0.5)))},
        scheduler={"name": "step", "lengths": (1, 2)},
        log_every=Cadence(0.25, "epochs"),  # type: ignore[arg-type]
    )
    assert config.optimizer_options == {"betas": [0.9, [0.95, 0.5]]}
    assert config.log_every == "0.25 epochs"
    assert type(config.learning_rate) is float
    assert write_file(config, tmp_path / name) == config


def test_files_are_for_people(tmp_path: Path) -> None:
    config = TrainingConfig(epochs=2, monitor="größe", optimizer_options={"betas": (0.9, 0.95)})
    config.save(tmp_path / "run.json")
    lines = (tmp_path / "run.json").read_text().splitlines()
    assert lines[:2] == ["{", '  "epochs": 2,']
    assert json.loads("\n".join(lines)) == config.to_dict()
    config.save(tmp_path / "run.yaml")
    text = (tmp_path / "run.yaml").read_text()
    assert text.startswith("epochs: 2\nmax_steps: null\n")
    assert list(yaml.safe_load(text)) == list(DEFAULTS)


def optional(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


counts = st.integers(1, 2**40)
sizes = st.floats(0, exclude_min=True, allow_infinity=False)
names = st.sampled_from(["val_loss", "1e-3", "null", "no", "a: b", "- x", "größe", " ", "#"])
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | names
plain = st.recursive(leaves, lambda part: st.lists(part) | st.dictionaries(names, part))
batches = optional(counts | st.floats(0, 1, exclude_min=True))
cadences = counts | st.sampled_from(["1 epoch", "30 seconds", "0.1 epochs", "2.5 minutes"])


@given(
    settings=st.fixed_dictionaries(
        {},
        optional={
            "epochs": optional(counts),
            "max_seconds": optional(sizes),
            "optimizer": names,
            "learning_rate": sizes,
            "optimizer_options": st.dictionaries(names, plain, max_size=3),
            "scheduler": optional(names | st.dictionaries(names, plain, max_size=2)),
            "warmup": counts | st.floats(0, 1),
            "clip_norm": optional(sizes | st.just(math.inf)),
            "average_decay": optional(st.floats(0, 1, exclude_max=True)),
            "monitor": names,
            "log_every": cadences,
            "save_every": optional(cadences),
            "seed": optional(st.integers(0, 2**64 - 1)),
            "deterministic": optional(st.booleans()),
            "limit_train_batches": batches,
        },
    )
)
def test_any_config_comes_back(tmp_path_factory: pytest.TempPathFactory, settings: Any) -> None:
    config = TrainingConfig(**settings)
    assert TrainingConfig.from_dict(config.to_dict()) == config
    folder = tmp_path_factory.getbasetemp()
    assert write_file(config, folder / "any.json") == config
    assert write_file(config, folder / "any.yaml") == config


# What is no config


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("learning_rat", "learning_rate"), ("Epochs", "epochs"), ("clip", "clip_norm")],
)
def test_an_unknown_name_says_which_was_meant(name: str, nearest: str) -> None:
    message = rf"unknown setting '{name}' \(did you mean '{nearest}'\?\); it is one of accumulate, "
    with pytest.raises(ValueError, match=message):
        TrainingConfig.from_dict({"epochs": 2, name: 1})


def test_an_unknown_name_unlike_any() -> None:
    for name in ("zzz", 7):
        with pytest.raises(ValueError, match=f"unknown setting '{name}'; it is one of") as caught:
            TrainingConfig.from_dict({name: 1})  # type: ignore[dict-item]
        assert str(caught.value).endswith(", ".join(sorted(DEFAULTS)))


@pytest.mark.parametrize("name", ["run.toml", "run", "run.JSON", "json"])
def test_other_files_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    message = re.escape(f"a config's file must end in .json, .yaml or .yml, got {name!r}")
    with pytest.raises(ValueError, match=message):
        TrainingConfig().save(path)
    assert not path.exists()
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=message):
        TrainingConfig.load(path)


@pytest.mark.parametrize("name", ["run.json", "run.yaml"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[1, 2]", r"must hold a mapping of settings, got \[1, 2\]"),
        (b'"epochs"', "must hold a mapping of settings, got 'epochs'"),
        (b'{"epochs": 2', "cannot be read: "),
        (b"\xff\xfe", "cannot be read: 'utf-8' codec"),
        (b'{"epoch": 2}', "unknown setting 'epoch' .did you mean 'epochs'"),
        (b'{"epochs": 0}', "epochs must be a positive int, or None, got 0"),
    ],
)
def test_files_with_something_else(name: str, text: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(text)
    if message.startswith(("must hold", "cannot")):
        message = f"{re.escape(str(path))} {message}"
    with pytest.raises(ValueError, match=message):
        TrainingConfig.load(path)


def test_empty_files(tmp_path: Path) -> None:
    for name, message in (("a.json", "cannot be read"), ("a.yaml", "must hold a mapping")):
        (tmp_path / name).write_text("")
        with pytest.raises(ValueError, match=rf"{name} {message}"):
            TrainingConfig.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        TrainingConfig.load(tmp_path / "b.json")


def test_without_pyyaml_there_is_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainingConfig(epochs=7)
    config.save(tmp_path / "run.yaml")
    monkeypatch.setitem(sys.modules, "yaml", None)
    message = re.escape("need PyYAML; run `pip install 'hotloop[yaml]'`, or use JSON")
    with pytest.raises(ImportError, match=message):
        config.save(tmp_path / "new.yaml")
    assert not (tmp_path / "new.yaml").exists()
    with pytest.raises(ImportError, match=message):
        TrainingConfig.load(tmp_path / "run.yaml")
    assert write_file(config, tmp_path / "run.json") == config


# Cadence


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        (100, 100, "steps"),
        ("100 steps", 100, "steps"),
        ("1 step", 1, "steps"),
        ("1 epoch", 1, "epochs"),
        ("2 epochs", 2, "epochs"),
        ("0.25 epochs", 0.25, "epochs"),
        ("1.0 epochs", 1, "epochs"),
        ("1 second", 1, "seconds"),
        ("0.5 seconds", 0.5, "seconds"),
        ("1 minute", 1, "minutes"),
        ("1.5 minutes", 1.5, "minutes"),
        ("  1e3   steps ", 1000, "steps"),
    ],
)
def test_texts_of_cadences(text: Any, amount: float, unit: str) -> None:
    cadence = Cadence.parse(text)
    assert (cadence.amount, cadence.unit) == (amount, unit)
    assert Cadence.parse(cadence) is cadence
    assert Cadence.parse(str(cadence)) == cadence


@pytest.mark.parametrize(
    ("cadence", "text"),
    [
        (Cadence(100, "steps"), "100 steps"),
        (Cadence(1.0, "epochs"), "1 epochs"),
        (Cadence(1234567, "steps"), "1234567 steps"),
        (Cadence(0.123456789, "epochs"), "0.123456789 epochs"),
        (Cadence(1e-9, "minutes"), "1e-09 minutes"),
    ],
)
def test_a_cadence_as_a_text(cadence: Cadence, text: str) -> None:
    assert str(cadence) == text
    assert Cadence.parse(text) == cadence


@pytest.mark.parametrize(
    "text",
    ["", "5", "steps", "5 hours", "x steps", "1 2 steps", "5 Steps", "steps 5", None, True, 2.0],
)
def test_texts_that_are_no_cadence(text: Any) -> None:
    message = (
        "a cadence must be a number of steps or a text such as '100 steps', '1 epoch', "
        f"'0.25 epochs', '30 seconds' or '10 minutes', got {text!r}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Cadence.parse(text)


@pytest.mark.parametrize("unit", ["steps", "epochs", "seconds", "minutes"])
@pytest.mark.parametrize("amount", [0, -1, math.nan, math.inf, True, "3", None])
def test_amounts_that_are_none(amount: Any, unit: str) -> None:
    with pytest.raises(ValueError, match=f"amount must be above 0 and finite, got {amount!r}"):
        Cadence(amount, unit)


@pytest.mark.parametrize(
    ("amount", "unit", "is_whole"),
    [
        (0.5, "steps", False),
        (1.5, "steps", False),
        (3.0, "steps", True),
        (0.5, "epochs", True),
        (1.5, "epochs", False),
        (0.5, "seconds", True),
        (1.5, "minutes", True),
    ],
)
def test_where_fractions_are_allowed(amount: float, unit: str, is_whole: bool) -> None:
    if is_whole:
        assert Cadence(amount, unit).amount == amount
        return
    with pytest.raises(ValueError, match=f"amount must be a whole number of {unit}, got {amount}"):
        Cadence(amount, unit)


@pytest.mark.parametrize(("unit", "hint"), [("epoch", " (did you mean 'epochs'?)"), (5, "")])
def test_units_that_do_not_exist(unit: Any, hint: str) -> None:
    message = f"unknown unit {str(unit)!r}{hint}; it is one of epochs, minutes, seconds, steps"
    with pytest.raises(ValueError, match=re.escape(message)):
        Cadence(1, unit)
