"""Training of a torch model by the kernels, in place on its own parameters."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hotloop import backend
from hotloop.argument import check_count
from hotloop.errors import BackendError, NonFiniteError, UnsupportedModelError
from hotloop.layout import RateWord
from hotloop.optimizers.optimizer import NativeStep
from hotloop.optimizers.plan import NOTHING, Around, Plan
from hotloop.programs.layer import Part, Shape, ShapeError, supported_parts
from hotloop.programs.objective import objective_of
from hotloop.programs.program import Program
from hotloop.schedulers import Schedule, Scheduler

__all__ = ["PATIENCE", "NativeTrainer", "as_tensor"]

#: Seconds after which Python looks for signals, such as that of Ctrl-C.
PATIENCE = 0.05


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class NativeTrainer:
    """Trains a model with forward, backward and update in Mojo.

    The kernels work on the memory of the model's own parameters and of the optimizer's own state,
    so that both can be used, saved and loaded at any time between calls. Gradients stay in
    `param.grad`. An epoch is one call without the GIL, but for a look at signals every 50 ms; what
    is interrupted has done whole steps.

    Args:
        model: An `nn.Sequential` of supported layers, also nested, on the CPU in float32 or
            float64; see `supports`.
        loss: "cross_entropy", "mse", "huber", "bce_with_logits", "poisson", or torch's loss of
            that kind with the mean as its reduction.
        optimizer: One of `hotloop.optimizers`, with the model's parameters.
        batch_size: Samples in a batch; the last one of an epoch may be smaller.
        schedule: Multiplies the learning rates of the optimizer at each step.
        max_norm: The largest norm of all gradients; larger ones are scaled down.
        threads: The most threads that share a batch; torch's number by default.

    Raises:
        UnsupportedModelError: If a part of the model, the loss or the optimizer has no kernel; the
            message names all of them.
        BackendError: If there are no kernels on this machine.
        ValueError: If a number is out of its range, or there is no such loss.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        loss: Any,
        optimizer: torch.optim.Optimizer,
        batch_size: int = 32,
        schedule: Schedule | None = None,
        max_norm: float | None = None,
        threads: int | None = None,
    ) -> None:
        check_count("batch_size", batch_size)
        check_count("threads", threads, is_optional=True)
        chosen = backend.current()
        if chosen.kernels is None:
            raise BackendError(f"whole loops need the kernels: {chosen.reason}")
        problems = self.supports(model)
        if problems:
            raise UnsupportedModelError("the model has no kernels: " + "; ".join(problems))
        self.model = model
        self.objective = objective_of(loss)
        if not isinstance(optimizer, NativeStep):
            raise UnsupportedModelError(
                f"{type(optimizer).__name__} has no kernel; use that of hotloop.optimizers"
            )
        optimizer.check_loop()
        self.optimizer = optimizer
        self.batch_size = batch_size
        self.scheduler = None if schedule is None else Scheduler(optimizer, schedule)
        self.step = 0
        self._around = NOTHING if max_norm is None else Around(max_norm=max_norm)
        self._threads = threads
        self._kernels = chosen.kernels
        assert chosen.runtime is not None
        self._parallel_for = chosen.runtime.parallel_for
        self._parts: list[Part] = supported_parts(model)[0]
        self._entries = self._parts[0].indices
        self._dtype = next(param.dtype for part in self._parts for param in part.params)
        self._shape: Shape | None = None
        self._program: Program | None = None
        self._plan: Plan | None = None

    @staticmethod
    def supports(model: nn.Module) -> list[str]:
        """Return a line for each reason why a model cannot be trained here; none if it can."""
        parts, problems = supported_parts(model)
        params = [param for part in parts for param in part.params]
        if not problems and not params:
            problems.append("the model: it has no parameters")
        for name, module in model.named_modules():
            if any(getattr(module, hooks) for hooks in _HOOKS):
                problems.append(f"{name or 'the model'}: its hooks would not be called")
        for name, param in model.named_parameters():
            if param._backward_hooks or getattr(param, "_post_accumulate_grad_hooks", None):
                problems.append(f"{name}: its hooks would not be called")
            if not param.is_cpu or param.dtype not in (torch.float32, torch.float64):
                problems.append(
                    f"{name}: it must be float32 or float64 on the CPU, got {param.dtype} on "
                    f"{param.device}"
                )
            elif not param.is_contiguous():
                problems.append(f"{name}: it is not contiguous")
        for part in parts:
            for buffer in part.buffers:
                if not buffer.is_cpu or {buffer.dtype} != {param.dtype for param in params}:
                    problems.append(
                        f"{part.path or 'the model'}: running statistics must have the parameters' "
                        f"dtype on the CPU, got {buffer.dtype} on {buffer.device}"
                    )
        if len({param.dtype for param in params}) > 1:
            problems.append("the model: its parameters have different dtypes")
        if len(set(map(id, params))) < len(params):
            problems.append("the model: two layers share a parameter")
        return problems

    def train_epoch(
        self,
        x: Any,
        y: Any,
        *,
        sample_weight: Any = None,
        order: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, float]:
        """Train on each sample once.

        Args:
            x: Samples in the model's dtype, or int64 for an embedding, shape (N, ...), a tensor or
                a NumPy array; it is read where it is.
            y: Class indices, int64, shape (N,); or numbers in the model's dtype, in the shape of
                the outputs, or (N,) for one output.
            sample_weight: Weights >= 0 in the model's dtype, shape (N,); the loss of a batch is
                then `sum(weight * loss) / sum(weight)`. None for the mean.
            order: Numbers of samples, int64, in the order in which they are taken; a new random
                one by default.
            generator: What the random order and the seed of dropout are drawn from; torch's own
                by default.

        Returns:
            "loss", the mean over all samples, with weights the weighted one, and with classes
            "accuracy", the fraction that was classified right, without weights; both as the samples
            were seen, before the update by their batch.

        Raises:
            ValueError: If a shape or dtype does not fit, a class, weight or number of a sample is
                out of range, or all weights of a batch are 0. Nothing is trained then.
            NonFiniteError: If the loss of a batch, or a gradient, is not finite; the updates before
                it have been made, and none by it.
        """
        x, y = self.checked(x, y)
        weights = self.checked_weights(sample_weight, len(x))
        if order is None:
            order = torch.randperm(len(x), generator=generator)
        # Before a seed is drawn, or a schedule moves.
        _check_order(order, len(x))
        steps = len(self.totals(order, None))
        rates = None if self.scheduler is None else self.scheduler.upcoming(steps)
        before = self.step
        try:
            seed = self.draw_seed(generator)
            done = self.train_batches(x, y, order, rates, seed=seed, weights=weights)
        finally:
            # An interrupt comes before the number that the call returns.
            if self.scheduler is not None:
                self.scheduler.advance(self.step - before)
        program = self._program_now()
        if done < steps:
            raise NonFiniteError(
                f"batch {done} of {steps} has the loss {program.losses[done]:g}, or a "
                f"gradient that is not finite; it was not trained on, and {done} "
                "batches were"
            )
        return self._summed(program, self.totals(order, weights))

    def train_batches(
        self,
        x: Tensor,
        y: Tensor,
        order: Tensor,
        rates: npt.NDArray[np.float64] | None = None,
        outputs: Tensor | None = None,
        seed: int = 0,
        *,
        weights: Tensor | None = None,
        decays: npt.NDArray[np.float64] | None = None,
        needs_squares: bool = False,
    ) -> int:
        """Train on batches, up to the first whose loss or gradient is not finite.

        Args:
            x: Samples, as `checked` returns them.
            y: What they should be, as `checked` returns it.
            order: Numbers of samples, int64 and contiguous; a row for each epoch, or a vector. The
                last batch of an epoch may be smaller than others.
            rates: The learning rates of each batch, shape (batches, groups); None for those of the
                optimizer.
            outputs: Where the model's outputs go, as `empty_outputs` returns it, in the places of
                the samples; None for nowhere.
            seed: What the masks of dropout depend on, beside `step`; below 2^63.
            weights: The weight of each sample, as `checked_weights` returns them.
            decays: The "weight_decay" of each batch, shape (batches, groups), in the place of those
                of the optimizer, which stay as they are; None for these.
            needs_squares: Whether `squares` are needed.

        Returns:
            How many batches were trained on; `losses` has theirs, and that of the next one.

        Raises:
            ValueError: If the order holds a number of no sample, or all weights of a batch are 0.
                Nothing is trained then.
        """
        _check_order(order, len(x))
        if weights is not None:
            self.totals(order, weights)
        self._program_for(x).check_batches(order.shape[-1], True)
        program, plan = self._prepared()
        steps = program.begin(
            x,
            order,
            self.objective,
            y=y,
            weights=weights,
            outputs=outputs,
            first_step=self.step,
            seed=seed,
            needs_squares=needs_squares,
        )
        rate_places = [] if rates is None else plan.places(self.optimizer, "lr")
        decay_places = [] if decays is None else plan.places(self.optimizer, "weight_decay")
        before = [float(place[0]) for place in decay_places]
        values = [each for each in (rates, decays) if each is not None]
        # It must outlive the calls.
        words = _Rates(
            np.hstack(values) if values else np.zeros((steps, 0)),
            [place.ctypes.data for place in (*rate_places, *decay_places)],
        )
        count = 1
        try:
            while program.done < steps:
                last = min(steps, program.done + count)
                start = time.perf_counter()
                done = self._kernels.train_batches(
                    program.address,
                    plan.address,
                    words.address,
                    program.done,
                    last,
                    self._parallel_for,
                )
                seconds = time.perf_counter() - start
                count = max(1, int(count * min(10.0, PATIENCE / max(seconds, 1e-6))))
                if done < last:
                    break
        finally:
            for place, value in zip(decay_places, before):
                place[0] = value
            plan.end_loop()
            self.step += program.done
        return program.done

    def totals(self, order: Tensor, weights: Tensor | None) -> npt.NDArray[np.float64]:
        """Return the sum of the weights of each batch, which is its size without weights.

        Args:
            order: Numbers of samples, as in `train_batches`.
            weights: The weight of each sample, or None.

        Raises:
            ValueError: If a sum is 0.
        """
        epoch = order.shape[-1]
        starts = np.arange(0, epoch, self.batch_size)
        if weights is None:
            sizes = np.minimum(epoch - starts, self.batch_size).astype(np.float64)
            return np.tile(sizes, order.numel() // epoch)
        ordered = weights[order].double().numpy()
        totals: npt.NDArray[np.float64] = np.add.reduceat(ordered, starts, axis=-1).ravel()
        if not totals.all():
            batch = int(np.argmin(totals))
            raise ValueError(
                f"the weights of batch {batch} of {len(totals)} are all 0, so that it has no mean "
                "loss; leave out samples without weight, or take larger batches"
            )
        return totals

    def draw_seed(self, generator: torch.Generator | None = None) -> int:
        """Return a seed for the masks of dropout, or 0 and draw nothing if there is none."""
        if not self._program_now().has_dropout:
            return 0
        return int(torch.randint(1 << 62, (), generator=generator))

    def empty_outputs(self, samples: int) -> Tensor:
        """Return memory for the outputs of some samples."""
        program = self._program_now()
        return torch.empty(samples, *program.output_shape, dtype=program.dtype)

    @property
    def losses(self) -> npt.NDArray[np.float64]:
        """The mean loss of each batch of the last run."""
        return self._program_now().losses

    @property
    def squares(self) -> npt.NDArray[np.float64]:
        """The sum of the squares of the linear layers' weights before each batch, if asked for."""
        return self._program_now().squares

    @property
    def grad_norms(self) -> npt.NDArray[np.float64]:
        """The norm of all gradients of each batch of the last run, if `max_norm` is given.

        NaN of those that were not reached, or whose loss is not finite.
        """
        return self._program_now().norms

    def evaluate(self, x: Any, y: Any) -> dict[str, float]:
        """Measure the loss of samples, as `train_epoch` does, without training.

        Args:
            x: Samples.
            y: What they should be.

        Returns:
            "loss", and with classes "accuracy".

        Raises:
            ValueError: If a shape or dtype does not fit, or a class is out of range.
        """
        x, y = self.checked(x, y)
        program = self._program_now()
        program.check_batches(len(x), False)
        steps = program.begin(x, torch.arange(len(x)), self.objective, y=y)
        self._kernels.forward_batches(program.address, 0, steps, self._parallel_for)
        return self._summed(program, program.sizes)

    def predict(self, x: Any) -> Tensor:
        """Return the model's outputs in evaluation, without a graph.

        Args:
            x: Samples.

        Raises:
            ValueError: If a shape or dtype does not fit.
        """
        x = self._checked_inputs(x)
        program = self._program_now()
        program.check_batches(len(x), False)
        outputs = self.empty_outputs(len(x))
        steps = program.begin(x, torch.arange(len(x)), outputs=outputs)
        self._kernels.forward_batches(program.address, 0, steps, self._parallel_for)
        return outputs

    def _program_for(self, x: Tensor) -> Program:
        """Return the program for samples of the shape of those."""
        self._shape = tuple(x.shape[1:])
        return self._program_now()

    def _program_now(self) -> Program:
        """Return the program for samples of the last shape."""
        assert self._shape is not None
        threads = torch.get_num_threads() if self._threads is None else self._threads
        if self._program is None or not self._program.is_current(self._shape, threads):
            self._program = Program(self._parts, self._shape, self.batch_size, threads)
        return self._program

    def _prepared(self) -> tuple[Program, Plan]:
        """Return the program and the optimizer's plan, as things are now."""
        program = self._program_now()
        for param, grad in zip(program.params, program.grads):
            if param.requires_grad and param.grad is not grad:
                param.grad = grad
        self._plan = self.optimizer.plan_loop(self._around)
        return program, self._plan

    def _summed(self, program: Program, totals: npt.NDArray[Any]) -> dict[str, float]:
        values = {"loss": float(program.losses @ totals / totals.sum())}
        if self.objective.has_labels:
            values["accuracy"] = float(program.correct.sum() / program.sizes.sum())
        return values

    def checked(self, x: Any, y: Any) -> tuple[Tensor, Tensor]:
        """Return samples and what they should be as the kernels read them.

        Raises:
            ValueError: If a shape or dtype does not fit, or a class is out of range.
        """
        x = self._checked_inputs(x)
        y = as_tensor("y", y)
        program = self._program_now()
        outputs, shape = program.outputs, program.output_shape
        if self.objective.has_labels:
            if len(shape) != 1:
                raise ShapeError(
                    f"the model must have outputs of shape (classes,), got {shape}; add "
                    "nn.Flatten()"
                )
            if y.is_floating_point() or y.is_complex() or y.shape != x.shape[:1]:
                raise ValueError(
                    f"y must hold a class index for each of the {len(x)} samples, shape "
                    f"({len(x)},), got {y.dtype} in shape {tuple(y.shape)}"
                )
            y = y.to(torch.int64).contiguous()
            is_bad = (y < 0) | (y >= outputs)
            if is_bad.any():
                index = int(is_bad.nonzero()[0])
                raise ValueError(
                    f"y[{index}] is {int(y[index])}, must be a class in [0, {outputs})"
                )
            return x, y
        allowed = [(len(x), *shape), (len(x),)] if shape == (1,) else [(len(x), *shape)]
        if y.dtype != program.dtype or tuple(y.shape) not in allowed:
            raise ValueError(
                f"y must be {program.dtype} in shape {allowed[0]}, got {y.dtype} in shape "
                f"{tuple(y.shape)}"
            )
        return x, y.contiguous()

    def checked_weights(self, sample_weight: Any, samples: int) -> Tensor | None:
        """Return the weights of samples as the kernels read them, or None for None.

        Raises:
            ValueError: If a shape or dtype does not fit, or a weight is negative or not finite.
        """
        if sample_weight is None:
            return None
        weights = as_tensor("sample_weight", sample_weight)
        if weights.dtype != self._dtype or weights.shape != (samples,):
            raise ValueError(
                f"sample_weight must be {self._dtype} in shape ({samples},), got {weights.dtype} "
                f"in shape {tuple(weights.shape)}"
            )
        is_bad = ~((weights >= 0) & weights.isfinite())
        if is_bad.any():
            index = int(is_bad.nonzero()[0])
            raise ValueError(
                f"sample_weight[{index}] is {float(weights[index]):g}, must be finite and >= 0"
            )
        return weights.contiguous()

    def _checked_inputs(self, samples: Any) -> Tensor:
        x = as_tensor("x", samples).contiguous()
        dtype = torch.int64 if self._entries else self._dtype
        if x.ndim < 1 or x.numel() == 0 or x.dtype != dtype:
            raise ValueError(
                f"x must hold at least one sample in {dtype}, got {x.dtype} in shape "
                f"{tuple(x.shape)}"
            )
        if self._entries:
            low, high = x.aminmax()
            if low < 0 or high >= self._entries:
                place = ((x < 0) | (x >= self._entries)).nonzero()[0].tolist()
                raise ValueError(
                    f"x{place} is {int(x[tuple(place)])}, must be in [0, {self._entries})"
                )
        self._program_for(x)
        return x


class _Rates:
    """Numbers of the groups at each step of an epoch, as the kernels read them.

    Args:
        values: float64, shape (steps, numbers).
        addresses: Where each number goes.
    """

    def __init__(self, values: npt.NDArray[np.float64], addresses: list[int]) -> None:
        self._values = np.ascontiguousarray(values)
        self._words = np.zeros(RateWord.PLACES + len(addresses), np.int64)
        self._words[RateWord.NUMBERS] = len(addresses)
        self._words[RateWord.VALUES] = self._values.ctypes.data
        self._words[RateWord.PLACES :] = addresses
        self.address = self._words.ctypes.data


def as_tensor(name: str, value: Any) -> Tensor:
    """Return a tensor of the memory of samples or targets, without graph.

    Raises:
        ValueError: If they are neither a tensor on the CPU nor a NumPy array.
    """
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if not isinstance(value, Tensor) or not value.is_cpu:
        raise ValueError(
            f"{name} must be a CPU tensor or a NumPy array, got {type(value).__name__}"
        )
    tensor: Tensor = value.detach()
    return tensor


def _check_order(order: Tensor, samples: int) -> None:
    is_list = order.dtype == torch.int64 and order.ndim in (1, 2) and order.is_contiguous()
    if not is_list or order.numel() == 0:
        raise ValueError(
            "order must be a contiguous int64 vector, or a row for each epoch, got "
            f"{order.dtype} in shape {tuple(order.shape)}"
        )
    low, high = order.aminmax()
    if low < 0 or high >= samples:
        raise ValueError(
            f"order must hold numbers in [0, {samples}), got {int(low)} to {int(high)}"
        )
