"""What a training run is told in numbers and names."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from hotloop.argument import check_count
from hotloop.errors import unknown_name

__all__ = ["Cadence", "TrainingConfig"]

_UNITS = {
    "step": "steps",
    "steps": "steps",
    "epoch": "epochs",
    "epochs": "epochs",
    "second": "seconds",
    "seconds": "seconds",
    "minute": "minutes",
    "minutes": "minutes",
}
_PRECISIONS = ("fp32", "bf16", "fp16", "auto")
_NONFINITE = ("raise", "skip", "rollback")
_MODES = ("min", "max")


@dataclass(frozen=True)
class Cadence:
    """How often something happens.

    Attributes:
        amount: How many units lie between two times, above 0. Steps are whole numbers, and
            so are epochs from 1 on; a fraction below 1 of an epoch is one of its updates.
        unit: "steps", "epochs", "seconds" or "minutes".

    Raises:
        ValueError: If the amount is out of range or the unit is unknown.
    """

    amount: float
    unit: str

    def __post_init__(self) -> None:
        if self.unit not in _UNITS.values():
            raise ValueError(unknown_name("unit", str(self.unit), set(_UNITS.values())))
        is_number = isinstance(self.amount, (int, float)) and not isinstance(self.amount, bool)
        if not is_number or not 0 < self.amount < math.inf:
            raise ValueError(f"amount must be above 0 and finite, got {self.amount!r}")
        is_whole = float(self.amount).is_integer()
        if not is_whole and (self.unit == "steps" or (self.unit == "epochs" and self.amount > 1)):
            raise ValueError(f"amount must be a whole number of {self.unit}, got {self.amount!r}")

    @classmethod
    def parse(cls, text: str | int | Cadence) -> Cadence:
        """Read "100 steps", "1 epoch", "0.25 epochs", "30 seconds", "10 minutes" or a number
        of steps.

        Raises:
            ValueError: If the text is none of them.
        """  # noqa: D205
        if isinstance(text, Cadence):
            return text
        if isinstance(text, int) and not isinstance(text, bool):
            return cls(text, "steps")
        try:
            amount, unit = str(text).split()
            parts = float(amount), _UNITS[unit]
        except (ValueError, KeyError) as error:
            raise ValueError(
                "a cadence must be a number of steps or a text such as '100 steps', '1 epoch', "
                f"'0.25 epochs', '30 seconds' or '10 minutes', got {text!r}"
            ) from error
        return cls(*parts)

    @property
    def seconds(self) -> float | None:
        """The amount in seconds; None of steps and epochs."""
        if self.unit in ("steps", "epochs"):
            return None
        return self.amount * (60 if self.unit == "minutes" else 1)

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        amount = int(self.amount) if float(self.amount).is_integer() else self.amount
        return f"{amount} {self.unit}"


Batches: TypeAlias = "int | float | None"


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of a `hotloop.loops.Trainer`.

    Attributes:
        epochs: Length of the run, in passes over the training data; None if `max_steps` or
            `max_seconds` ends it. What comes first ends it; with none of them it is 1 epoch.
        max_steps: Length of the run, in applied updates.
        max_seconds: Length of the run, in seconds; the update at hand is completed.
        batch_size: Samples of a batch, if the trainer makes a loader from a dataset.
        optimizer: The name of an optimizer of `hotloop.optimizers`.
        learning_rate: Its learning rate, at least 0.
        weight_decay: Of the matrices, at least 0; None for the default of the optimizer.
        optimizer_options: Further arguments of the optimizer.
        scheduler: The name or spec of a schedule, as `hotloop.schedulers.create_schedule`
            takes it; None for a constant learning rate.
        warmup: Linear warm-up before the schedule: updates, or as a float the fraction of
            the run.
        clip_norm: The largest 2-norm of all gradients that enters an update; None for any.
        clip_value: The largest size of a gradient's element; None for any.
        accumulate: Batches whose gradients make one update.
        precision: "fp32", "bf16", "fp16" or "auto".
        average_decay: Decay of the moving average of the weights that validation sees, in
            [0, 1); None for no average.
        nonfinite: What a loss or gradient that is not finite does. "raise": a measured
            gradient norm stops the run at once, and otherwise the mean loss of a logging
            window does. "skip": the update is left out and counted; that reads the loss and
            the norm at each update. "rollback": the run goes back to its newest good
            checkpoint, and on without the batches of that update; it reads as "skip" does.
            With a loss scaler an overflow leaves out the update in each case.
        max_rollbacks: How many times the run may go back; one more is an error.
        early_stopping: Validations without improvement that end the run; None for never.
        monitor: The value that early stopping watches, "val_loss" or another.
        monitor_mode: "min" or "max": which values of `monitor` are better.
        log_every: Cadence of logging windows.
        validate_every: Cadence of validations; None for none.
        save_every: Cadence of the trainer's `checkpoints`; None for each epoch.
        seed: Seeds Python's, NumPy's and torch's generators at the start; None does not.
        device: Where the model and its batches are moved; None for where the model is.
        deterministic: Whether torch must use deterministic algorithms during the run; None
            leaves it as it is.
        tf32: Whether CUDA may use TF32 during the run; None leaves it as it is.
        progress: Whether there is a progress bar.
        fast_dev_run: Try everything with this many batches for training, validation and
            test, in one epoch; 0 for a whole run.
        overfit_batches: Train and validate on the first batches only: how many, or as a
            float which fraction; None for all.
        limit_train_batches: Batches of an epoch: how many, or as a float which fraction.
        limit_val_batches: The same for a validation.
        limit_test_batches: The same for `test` and `predict`.

    Raises:
        ValueError: If a value is out of range. `from_dict` also for an unknown name.
    """

    epochs: int | None = None
    max_steps: int | None = None
    max_seconds: float | None = None
    batch_size: int = 32
    optimizer: str = "AdamW"
    learning_rate: float = 1e-3
    weight_decay: float | None = None
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)
    scheduler: str | Mapping[str, Any] | None = None
    warmup: int | float = 0
    clip_norm: float | None = None
    clip_value: float | None = None
    accumulate: int = 1
    precision: str = "fp32"
    average_decay: float | None = None
    nonfinite: str = "raise"
    max_rollbacks: int = 3
    early_stopping: int | None = None
    monitor: str = "val_loss"
    monitor_mode: str = "min"
    log_every: str | int = "50 steps"
    validate_every: str | int | None = "1 epoch"
    save_every: str | int | None = None
    seed: int | None = None
    device: str | None = None
    deterministic: bool | None = None
    tf32: bool | None = None
    progress: bool = True
    fast_dev_run: int = 0
    overfit_batches: Batches = None
    limit_train_batches: Batches = None
    limit_val_batches: Batches = None
    limit_test_batches: Batches = None

    def __post_init__(self) -> None:
        for name in ("epochs", "max_steps", "early_stopping"):
            check_count(name, getattr(self, name), 1, is_optional=True)
        for name in ("batch_size", "accumulate"):
            check_count(name, getattr(self, name), 1)
        check_count("fast_dev_run", self.fast_dev_run, 0)
        check_count("max_rollbacks", self.max_rollbacks, 0)
        check_count("seed", self.seed, 0, is_optional=True)
        if self.seed is not None and self.seed >= 2**64:
            raise ValueError(f"seed must be below 2**64, or None; got {self.seed!r}")
        for name in ("max_seconds", "clip_value"):
            _check_number(name, getattr(self, name), is_optional=True, is_open=True)
        _check_number("clip_norm", self.clip_norm, is_optional=True, may_be_inf=True)
        _check_number("learning_rate", self.learning_rate)
        _check_number("weight_decay", self.weight_decay, is_optional=True)
        _check_number("warmup", self.warmup)
        if isinstance(self.warmup, float) and self.warmup > 1:
            raise ValueError(
                "warmup must be an int, of updates, or a float in [0, 1], the fraction of the run; "
                f"got {self.warmup!r}"
            )
        decay = self.average_decay
        _check_number("average_decay", decay, is_optional=True)
        if decay is not None and decay >= 1:
            raise ValueError(f"average_decay must be in [0, 1), or None; got {decay!r}")
        for name, allowed in (
            ("precision", _PRECISIONS),
            ("nonfinite", _NONFINITE),
            ("monitor_mode", _MODES),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(unknown_name(name, str(getattr(self, name)), allowed))
        for name in ("log_every", "validate_every", "save_every"):
            cadence = getattr(self, name)
            if cadence is not None or name == "log_every":
                try:
                    Cadence.parse(cadence)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from error
        for name in ("overfit", "limit_train", "limit_val", "limit_test"):
            _check_batches(f"{name}_batches", getattr(self, f"{name}_batches"))
        for name, kinds, expected in (
            ("optimizer", str, "a str"),
            ("optimizer_options", Mapping, "a mapping"),
            ("scheduler", (str, Mapping, type(None)), "a str, a mapping or None"),
            ("monitor", str, "a str"),
            ("device", (str, type(None)), "a str or None"),
            ("deterministic", (bool, type(None)), "a bool or None"),
            ("tf32", (bool, type(None)), "a bool or None"),
            ("progress", bool, "a bool"),
        ):
            if not isinstance(getattr(self, name), kinds):
                raise ValueError(f"{name} must be {expected}, got {getattr(self, name)!r}")
        for each in dataclasses.fields(self):
            # What a file gives back, so that a config equals the one that was saved.
            object.__setattr__(self, each.name, _plain(getattr(self, each.name)))

    def to_dict(self) -> dict[str, Any]:
        """Return all settings as numbers, texts, lists and dicts."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> TrainingConfig:
        """Make a config from some settings; the others have their defaults.

        Raises:
            ValueError: If a name is unknown or a value is out of range.
        """
        known = [each.name for each in dataclasses.fields(cls)]
        for name in settings:
            if name not in known:
                raise ValueError(unknown_name("setting", str(name), known))
        return cls(**settings)

    def save(self, path: str | Path) -> None:
        """Write all settings to a .json, .yaml or .yml file.

        Raises:
            ValueError: If the file's name ends otherwise.
            ImportError: If YAML is asked for and PyYAML is missing.
        """
        path = Path(path)
        if _is_json(path):
            text = json.dumps(self.to_dict(), indent=2) + "\n"
        else:
            text = _yaml().safe_dump(self.to_dict(), sort_keys=False)
        path.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> TrainingConfig:
        """Read settings from a .json, .yaml or .yml file.

        Raises:
            ValueError: If the file's name ends otherwise, or it holds something else, an
                unknown name or a value out of range.
            ImportError: If it is YAML and PyYAML is missing.
        """
        path = Path(path)
        is_json = _is_json(path)
        try:
            settings = _parsed(path.read_text(encoding="utf-8"), is_json=is_json)
        except ValueError as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        if not isinstance(settings, dict):
            raise ValueError(f"{path} must hold a mapping of settings, got {settings!r}")
        return cls.from_dict(settings)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(entry) for entry in value]
    if isinstance(value, Cadence):
        return str(value)
    # NumPy's float64 is a float, but PyYAML does not know it.
    return float(value) if isinstance(value, float) else value


def _check_number(
    name: str,
    value: Any,
    *,
    is_optional: bool = False,
    is_open: bool = False,
    may_be_inf: bool = False,
) -> None:
    if value is None and is_optional:
        return
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if (
        not is_number
        or not (value > 0 if is_open else value >= 0)
        or (value == math.inf and not may_be_inf)
    ):
        allowed = "above 0" if is_open else "at least 0"
        allowed += "" if may_be_inf else " and finite"
        allowed += ", or None" if is_optional else ""
        # YAML 1.1 wants a point in a number with an exponent.
        hint = "; in YAML write 1.0e-3 for 1e-3" if isinstance(value, str) else ""
        raise ValueError(f"{name} must be {allowed}, got {value!r}{hint}")


def _check_batches(name: str, value: Any) -> None:
    if isinstance(value, float) and 0 < value <= 1:
        return
    if isinstance(value, (float, bool)):
        raise ValueError(f"{name} must be an int, a float in (0, 1] or None, got {value!r}")
    check_count(name, value, 1, is_optional=True)


def _is_json(path: Path) -> bool:
    if path.suffix not in (".json", ".yaml", ".yml"):
        raise ValueError(f"a config's file must end in .json, .yaml or .yml, got {path.name!r}")
    return path.suffix == ".json"


def _parsed(text: str, *, is_json: bool) -> Any:
    if is_json:
        return json.loads(text)
    yaml = _yaml()
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _yaml() -> Any:
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError(
            "YAML configs need PyYAML; run `pip install 'hotloop[yaml]'`, or use JSON"
        ) from error
    return yaml
