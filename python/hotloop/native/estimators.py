"""scikit-learn estimators of multi-layer perceptrons, trained by the kernels."""

from __future__ import annotations

import itertools
import warnings
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hotloop.errors import NonFiniteError
from hotloop.optimizers import SGD, Adam
from hotloop.programs.native_trainer import NativeTrainer

try:
    from scipy.sparse import issparse
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import accuracy_score, r2_score
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import LabelBinarizer
    from sklearn.utils import check_random_state, column_or_1d
    from sklearn.utils._param_validation import Interval, StrOptions
    from sklearn.utils.multiclass import check_classification_targets, type_of_target
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError("hotloop's estimators need scikit-learn; install hotloop[sklearn]") from error

__all__ = ["NativeMLPClassifier", "NativeMLPRegressor"]

#: How samples are validated.
_SAMPLES: dict[str, Any] = {"accept_sparse": ["csr", "csc"], "dtype": np.float32, "order": "C"}
#: The most samples of the epochs that are ordered at once.
_ORDERED = 1 << 20
#: Rows of sparse samples that are made dense at once for a prediction.
_CHUNK = 4096
_ACTIVATIONS = {
    "identity": nn.Identity,
    "logistic": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
}
#: The losses of the regressor. Half the squared error is Huber's loss that is never linear.
_LOSSES = {"squared_error": nn.HuberLoss(delta=np.inf), "poisson": "poisson"}


class _NativeMLP(BaseEstimator):  # type: ignore[misc]
    """What the classifier and the regressor share."""

    _loss: Any

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 1e-4,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 1e-3,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: int = 10,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change

    _parameter_constraints: dict[str, list[Any]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(_ACTIVATIONS))],
        "solver": [StrOptions({"adam", "sgd"})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
    }

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Fit the model to data.

        An interrupt ends it with a warning; the epochs before it count.

        Args:
            X: Samples, shape (N, features), dense or a sparse matrix or array of scipy; computed in
                float32. Sparse ones are made dense, which takes 4 * N * features bytes.
            y: Classes or numbers, shape (N,) or (N, outputs).
            sample_weight: Weights >= 0, shape (N,), or one number; None for 1.

        Returns:
            The estimator.

        Raises:
            ValueError: If an argument is out of its range, or the weights of all samples, of those
                of a batch, or of those that are held out are all 0.
            NonFiniteError: If a loss or gradient is not finite; the update was not made.
        """
        self._validate_params()
        is_new = not (self.warm_start and hasattr(self, "model_"))
        X, targets = self._validated(X, y, is_new)
        weights = _checked_weights(sample_weight, X)
        if is_new:
            self._start(X.shape[1])
        self._train(X, y, targets, weights, self.max_iter, self.early_stopping)
        return self

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any, classes: Any = None) -> Any:
        self._validate_params()
        if self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        is_new = not hasattr(self, "model_")
        X, targets = self._validated(X, y, is_new, classes)
        weights = _checked_weights(sample_weight, X)
        if is_new:
            self._start(X.shape[1])
        self._train(X, y, targets, weights, 1, False)
        return self

    @property
    def coefs_(self) -> list[npt.NDArray[np.float32]]:
        """The weights of each layer, shape (inputs, outputs), as views."""
        return [layer.weight.detach().numpy().T for layer in self._linears()]

    @property
    def intercepts_(self) -> list[npt.NDArray[np.float32]]:
        """The biases of each layer, as views."""
        return [layer.bias.detach().numpy() for layer in self._linears()]

    def __getstate__(self) -> Any:
        # The trainer holds addresses of this process; the model and the optimizer go on without.
        state = dict(super().__getstate__())
        state.pop("_trainer", None)
        return state

    def _linears(self) -> list[nn.Linear]:
        check_is_fitted(self, "model_")
        return [layer for layer in self.model_ if isinstance(layer, nn.Linear)]

    @property
    def _scale(self) -> int:
        """How often scikit-learn's gradient is that of the kernels, a mean over outputs.

        Such a factor is one of the learning rate of SGD, and a divisor of Adam's epsilon and of
        the penalty.
        """
        return 1 if self._loss == "cross_entropy" else self.n_outputs_

    @property
    def _loss_scale(self) -> int:
        """How often scikit-learn's loss is that of the kernels."""
        return self._scale

    def _start(self, inputs: int) -> None:
        """Make a model with scikit-learn's initial weights (Glorot and Bengio, 2010)."""
        random = self._random_state_ = check_random_state(self.random_state)
        hidden = np.atleast_1d(self.hidden_layer_sizes).astype(int).tolist()
        if any(size <= 0 for size in hidden):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {self.hidden_layer_sizes!r}")
        sizes = [inputs, *hidden, self.n_outputs_]
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            layer = nn.Linear(fan_in, fan_out)
            gain = 2.0 if self.activation == "logistic" else 6.0
            bound = (gain / (fan_in + fan_out)) ** 0.5
            with torch.no_grad():
                for param in (layer.weight, layer.bias):
                    values = random.uniform(-bound, bound, tuple(param.shape))
                    param.copy_(torch.from_numpy(values))
            layers += [layer, _ACTIVATIONS[self.activation]()]
        self.model_ = nn.Sequential(*layers[:-1])
        self.n_layers_ = len(sizes)
        self.t_ = 0
        self.loss_curve_: list[float] = []
        self._stale = 0
        self.best_loss_: float | None = None if self.early_stopping else np.inf
        self.validation_scores_: list[float] | None = [] if self.early_stopping else None
        self.best_validation_score_: float | None = -np.inf if self.early_stopping else None
        weights = [layer.weight for layer in self._linears()]
        biases = [layer.bias for layer in self._linears()]
        groups: list[dict[str, Any]] = [{"params": weights}, {"params": biases}]
        rate = float(self.learning_rate_init)
        self._optimizer: torch.optim.Optimizer
        if self.solver == "adam":
            betas = (float(self.beta_1), float(self.beta_2))
            eps = float(self.epsilon) / self._scale
            self._optimizer = Adam(groups, lr=rate, betas=betas, eps=eps)
        else:
            momentum = float(self.momentum)
            is_nesterov = bool(self.nesterovs_momentum) and momentum > 0
            self._optimizer = SGD(
                groups, lr=rate * self._scale, momentum=momentum, nesterov=is_nesterov
            )
        self.__dict__.pop("_trainer", None)

    def _train(
        self,
        X: Any,
        y: Any,
        targets: Any,
        weights: Any,
        epochs: int,
        has_validation: bool,
    ) -> None:
        random = self._random_state_
        held_out: Any = None
        if has_validation:
            is_stratified = isinstance(self, ClassifierMixin) and np.ndim(y) == 1
            arrays = [X, targets, np.asarray(y), *([] if weights is None else [weights])]
            X, val_x, targets, _, _, val_y, *split = train_test_split(
                *arrays,
                random_state=random,
                test_size=self.validation_fraction,
                stratify=y if is_stratified else None,
            )
            weights, val_weights = split or (None, None)
            if len(val_x) < 2:
                raise ValueError(
                    f"validation_fraction={self.validation_fraction} leaves {len(val_x)} of the "
                    "samples for validation, at least 2 are needed"
                )
            if val_weights is not None and not val_weights.any():
                raise ValueError("sample_weight is 0 for all samples that are held out")
            held_out = (val_x, val_y, val_weights)
        samples = len(X)
        batch_size = min(200 if self.batch_size == "auto" else int(self.batch_size), samples)
        trainer = self.__dict__.get("_trainer")
        if trainer is None or trainer.batch_size != batch_size:
            trainer = self._trainer = NativeTrainer(
                self.model_, loss=self._loss, optimizer=self._optimizer, batch_size=batch_size
            )
        inputs, outputs = trainer.checked(X, targets)
        sample_weight = trainer.checked_weights(weights, samples)
        best: list[torch.Tensor] = []
        self.n_iter_ = 0
        is_over = False
        while self.n_iter_ < epochs and not is_over:
            order = self._next_order(
                samples, min(self._epochs_ahead(held_out), epochs - self.n_iter_)
            )
            # scikit-learn divides the penalty by the weight of a batch, and spares the biases.
            totals = trainer.totals(order, sample_weight)
            decays = np.stack([self.alpha / self._scale / totals, 0 * totals], axis=1)
            before = trainer.step
            is_interrupted = False
            try:
                trainer.train_batches(
                    inputs, outputs, order, weights=sample_weight, decays=decays, needs_squares=True
                )
            except KeyboardInterrupt:
                is_interrupted = True
            done = trainer.step - before
            losses = self._loss_scale * trainer.losses + 0.5 * self.alpha * trainer.squares / totals
            batches = len(totals) // len(order)
            sizes = trainer.totals(order[0], None)
            for epoch in range(done // batches):
                first = epoch * batches
                self.loss_ = float(losses[first : first + batches] @ sizes / samples)
                self.n_iter_ += 1
                self.t_ += samples
                self.loss_curve_.append(self.loss_)
                if self.verbose:
                    print(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")
                if held_out is not None:
                    best = self._look_at_score(held_out, best)
                else:
                    assert self.best_loss_ is not None
                    is_stale = self.loss_ > self.best_loss_ - self.tol
                    self._stale = self._stale + 1 if is_stale else 0
                    self.best_loss_ = min(self.best_loss_, self.loss_)
                is_over = self._follow_rate()
            if is_interrupted:
                # As in scikit-learn, what was learnt stays.
                warnings.warn("Training interrupted by user.", stacklevel=3)
                is_over = True
            elif done < len(totals):
                raise NonFiniteError(
                    f"the loss of a batch is {trainer.losses[done]:g}, or a gradient is not "
                    "finite; look at the samples and learning_rate_init"
                )
        if not is_over and epochs > 1:
            warnings.warn(
                f"max_iter={self.max_iter} was reached before the optimization converged",
                ConvergenceWarning,
                stacklevel=3,
            )
        for param, value in zip(self.model_.parameters(), best):
            param.data.copy_(value)

    def _epochs_ahead(self, held_out: Any) -> int:
        """Return how many epochs there are before anybody could look at one, or end the run."""
        changes_rate = self.solver == "sgd" and self.learning_rate == "invscaling"
        if held_out is not None or self.verbose or changes_rate:
            return 1
        return max(1, self.n_iter_no_change + 1 - self._stale)

    def _next_order(self, samples: int, epochs: int) -> torch.Tensor:
        """Return the numbers of the samples in the order of the next epochs, a row for each."""
        epochs = max(1, min(epochs, _ORDERED // samples))
        if not self.shuffle:
            return torch.arange(samples).repeat(epochs, 1)
        rows = [self._random_state_.permutation(samples) for _ in range(epochs)]
        return torch.from_numpy(np.stack(rows))

    def _follow_rate(self) -> bool:
        """Set the learning rate for the next epoch, and tell whether there is none."""
        if self.solver == "sgd" and self.learning_rate == "invscaling":
            self._set_rate(self.learning_rate_init / (self.t_ + 1) ** self.power_t)
        if self._stale <= self.n_iter_no_change:
            return False
        if self.solver != "sgd" or self.learning_rate != "adaptive":
            return True
        rate = self._optimizer.param_groups[0]["lr"] / self._scale
        if rate <= 1e-6:
            return True
        self._set_rate(rate / 5.0)
        self._stale = 0
        return False

    def _look_at_score(self, held_out: Any, best: list[torch.Tensor]) -> list[torch.Tensor]:
        """Score the validation samples; return the best parameters so far."""
        assert self.validation_scores_ is not None
        assert self.best_validation_score_ is not None
        score = self._score(*held_out)
        self.validation_scores_.append(score)
        if self.verbose:
            print(f"Validation score: {score:.6f}")
        self._stale = self._stale + 1 if score < self.best_validation_score_ + self.tol else 0
        if score > self.best_validation_score_ or not best:
            self.best_validation_score_ = max(score, self.best_validation_score_)
            best = [param.detach().clone() for param in self.model_.parameters()]
        return best

    def _set_rate(self, rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = float(rate) * self._scale

    def _outputs(self, X: Any) -> npt.NDArray[np.float32]:
        check_is_fitted(self, "model_")
        X = validate_data(self, X, reset=False, **_SAMPLES)
        if not issparse(X):
            return self._outputs_of(X)
        rows = X.tocsr()
        chunks = (rows[at : at + _CHUNK].toarray() for at in range(0, rows.shape[0], _CHUNK))
        return np.concatenate([self._outputs_of(chunk) for chunk in chunks])

    def _outputs_of(self, X: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        trainer = self.__dict__.get("_trainer")
        if trainer is None:
            trainer = NativeTrainer(self.model_, loss=self._loss, optimizer=self._optimizer)
        outputs: npt.NDArray[np.float32] = trainer.predict(X).numpy()
        return outputs

    def _validated(
        self,
        X: Any,
        y: Any,
        is_new: bool,
        classes: Any = None,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
        """Return samples and targets as the kernels read them."""
        raise NotImplementedError

    def _score(self, X: Any, y: Any, sample_weight: Any) -> float:
        raise NotImplementedError

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _dense(X: Any) -> npt.NDArray[np.float32]:
    """Return samples as the kernels read them."""
    dense: npt.NDArray[np.float32] = X.toarray(order="C") if issparse(X) else X
    return dense


def _checked_weights(sample_weight: Any, X: Any) -> Any:
    """Return weights as the kernels read them, or None for None."""
    if sample_weight is None:
        return None
    return _check_sample_weight(sample_weight, X, dtype=np.float32, ensure_non_negative=True)


class NativeMLPClassifier(ClassifierMixin, _NativeMLP):  # type: ignore[misc]
    """`sklearn.neural_network.MLPClassifier`, trained in Mojo.

    Options, attributes and defaults are scikit-learn's; `solver="lbfgs"` is not there. Arithmetic
    is float32, and Adam's epsilon is added to the corrected root, as in torch. Two classes have one
    output, several labels of a sample one each.

    Sample weights are scikit-learn's: the loss of a batch is `sum(weight * loss) / sum(weight)`,
    its penalty is divided by `sum(weight)`, and the score of early stopping has them, too. A
    negative weight is an error, and so is a batch whose weights are all 0, which can come up in any
    epoch: leave out samples of weight 0, or take larger batches.

    Attributes:
        classes_: The classes.
        model_: The `nn.Sequential` that was trained.
        loss_: The loss of the last epoch, with the penalty.
        loss_curve_: That of each epoch.
        n_iter_: How many epochs the last `fit` took.
    """

    def _validated(
        self,
        X: Any,
        y: Any,
        is_new: bool,
        classes: Any = None,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
        X, y = validate_data(self, X, y, multi_output=True, reset=is_new, **_SAMPLES)
        X = _dense(X)
        check_classification_targets(y)
        is_multilabel = type_of_target(y) == "multilabel-indicator"
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if is_new:
            self._binarizer = LabelBinarizer().fit(y if classes is None else classes)
            self.classes_ = self._binarizer.classes_
            self._is_multilabel = is_multilabel
            is_binary = not is_multilabel and len(self.classes_) == 2
            self._loss = "bce_with_logits" if is_multilabel or is_binary else "cross_entropy"
            self.n_outputs_ = 1 if is_binary else len(self.classes_)
            self.out_activation_ = "logistic" if is_multilabel or is_binary else "softmax"
        elif not is_multilabel and set(np.unique(y)) - set(self.classes_):
            raise ValueError(
                f"y has classes that are not in self.classes_: {self.classes_}, got {np.unique(y)}"
            )
        if self._loss == "cross_entropy":
            return X, np.searchsorted(self.classes_, y).astype(np.int64)
        targets = y if is_multilabel else np.searchsorted(self.classes_, y)
        return X, np.asarray(targets, np.float32).reshape(len(X), -1)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Any:
        """Train for one epoch.

        Args:
            X: Samples, as in `fit`.
            y: Their classes.
            sample_weight: Their weights, as in `fit`.
            classes: All classes; needed at the first call, and not used later.

        Returns:
            The estimator.
        """
        if not hasattr(self, "model_") and classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        is_known = hasattr(self, "model_") and classes is not None
        if is_known and not np.array_equal(self.classes_, np.unique(classes)):
            raise ValueError(
                f"`classes={classes!r}` is not the same as on last call to partial_fit, was: "
                f"{self.classes_!r}"
            )
        return self._partial_fit(X, y, sample_weight, classes)

    def predict_proba(self, X: Any) -> npt.NDArray[Any]:
        """Return the probability of each class, shape (N, classes).

        Args:
            X: Samples.
        """
        outputs = self._outputs(X).astype(np.float64)
        if self._loss == "cross_entropy":
            shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
            return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
        ones = 1 / (1 + np.exp(-outputs))
        return ones if self._is_multilabel else np.hstack([1 - ones, ones])

    def predict_log_proba(self, X: Any) -> npt.NDArray[Any]:
        """Return the logarithm of `predict_proba`.

        Args:
            X: Samples.
        """
        return np.asarray(np.log(self.predict_proba(X)))

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Return the most likely class of each sample, or the labels of each.

        Args:
            X: Samples.
        """
        return self._classes_of(self._outputs(X))

    def _classes_of(self, outputs: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        if self._is_multilabel:
            return np.asarray((outputs > 0).astype(int))
        is_softmax = self._loss == "cross_entropy"
        index = outputs.argmax(1) if is_softmax else (outputs[:, 0] > 0).astype(int)
        return np.asarray(self.classes_[index])

    def _score(self, X: Any, y: Any, sample_weight: Any) -> float:
        preds = self._classes_of(self._outputs_of(X))
        return float(accuracy_score(y, preds, sample_weight=sample_weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class NativeMLPRegressor(RegressorMixin, _NativeMLP):  # type: ignore[misc]
    """`sklearn.neural_network.MLPRegressor`, trained in Mojo.

    Options, attributes and defaults are scikit-learn's; `solver="lbfgs"` is not there. Arithmetic
    is float32, and Adam's epsilon is added to the corrected root, as in torch. Sample weights are
    as in `NativeMLPClassifier`. `loss="poisson"` needs numbers >= 0; its model predicts their
    logarithm.

    Attributes:
        model_: The `nn.Sequential` that was trained.
        loss_: Half the mean squared error of the last epoch, or the mean over samples of
            `exp(x) - y * x` for the model's outputs x, which is half the Poisson deviance but for
            terms of y alone; with the penalty.
        loss_curve_: That of each epoch.
        n_iter_: How many epochs the last `fit` took.
    """

    _parameter_constraints: dict[str, list[Any]] = {
        **_NativeMLP._parameter_constraints,
        "loss": [StrOptions(set(_LOSSES))],
    }

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 1e-4,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 1e-3,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: int = 10,
    ) -> None:
        self.loss = loss
        super().__init__(
            hidden_layer_sizes,
            activation,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate=learning_rate,
            learning_rate_init=learning_rate_init,
            power_t=power_t,
            max_iter=max_iter,
            shuffle=shuffle,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            momentum=momentum,
            nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            n_iter_no_change=n_iter_no_change,
        )

    @property
    def _loss_scale(self) -> int:
        # The squared error is a mean over outputs, though its gradient is that of their sum.
        return self._scale if self.loss == "poisson" else 1

    def _validated(
        self,
        X: Any,
        y: Any,
        is_new: bool,
        classes: Any = None,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
        X, y = validate_data(
            self, X, y, multi_output=True, y_numeric=True, reset=is_new, **_SAMPLES
        )
        X = _dense(X)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if self.loss == "poisson" and (y < 0).any():
            raise ValueError(f"y must be >= 0 with loss='poisson', got {y.min()}")
        if is_new:
            self._loss = _LOSSES[self.loss]
            self.out_activation_ = "exp" if self.loss == "poisson" else "identity"
            self.n_outputs_ = 1 if y.ndim == 1 else y.shape[1]
            self._is_flat = y.ndim == 1
        return X, np.ascontiguousarray(y, np.float32).reshape(len(X), -1)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Train for one epoch.

        Args:
            X: Samples, as in `fit`.
            y: Their numbers.
            sample_weight: Their weights, as in `fit`.

        Returns:
            The estimator.
        """
        return self._partial_fit(X, y, sample_weight)

    def predict(self, X: Any) -> npt.NDArray[np.float32]:
        """Return the numbers of each sample, shape (N,) or (N, outputs) as those of `fit`.

        Args:
            X: Samples.
        """
        return self._numbers_of(self._outputs(X))

    def _numbers_of(self, outputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        numbers = outputs[:, 0] if self._is_flat else outputs
        return np.exp(numbers) if self.out_activation_ == "exp" else numbers

    def _score(self, X: Any, y: Any, sample_weight: Any) -> float:
        preds = self._numbers_of(self._outputs_of(X))
        return float(r2_score(y, preds, sample_weight=sample_weight))
