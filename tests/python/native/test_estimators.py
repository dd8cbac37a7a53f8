"""The estimators against scikit-learn's own, and against what scikit-learn asks of any."""

from __future__ import annotations

import copy
import itertools
import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse, special
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from torch import nn

from hotloop import backend
from hotloop.errors import NonFiniteError
from hotloop.native import estimators
from hotloop.native.estimators import NativeMLPClassifier, NativeMLPRegressor
from hotloop.programs import NativeTrainer, native_trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.skipif(backend.current().kernels is None, reason="they need the kernels"),
]


@pytest.mark.parametrize(
    "estimator",
    [NativeMLPClassifier(max_iter=100), NativeMLPRegressor(max_iter=100)],
    ids=lambda estimator: type(estimator).__name__,
)
@pytest.mark.filterwarnings("ignore")
def test_they_are_estimators(estimator: Any) -> None:
    # A weight of 2 and a sample twice are the same but for rounding, which is that of float32, and
    # scikit-learn asks for 1e-7; `test_weights_are_repeated_samples` compares them.
    reason = "arithmetic is float32"
    results = check_estimator(
        estimator,
        expected_failed_checks={
            "check_sample_weight_equivalence_on_dense_data": reason,
            "check_sample_weight_equivalence_on_sparse_data": reason,
        },
        on_fail=None,
        on_skip=None,
    )
    failed = [
        (each["check_name"], each["exception"]) for each in results if each["status"] == "failed"
    ]
    assert failed == []
    passed = {each["check_name"] for each in results if each["status"] == "passed"}
    assert len(passed) > 40
    assert "check_sample_weights_not_overwritten" in passed
    assert "check_estimator_sparse_array" in passed


def test_defaults_are_sklearns() -> None:
    for ours, theirs in ((NativeMLPClassifier, MLPClassifier), (NativeMLPRegressor, MLPRegressor)):
        expected = {k: v for k, v in theirs().get_params().items() if k != "max_fun"}
        assert ours().get_params() == expected


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
def test_training_is_sklearns(solver: str, activation: str) -> None:
    # Without shuffling both see the same batches. scikit-learn draws its weights in another
    # shape, so ours start with a copy of its own.
    X, y = load_diabetes(return_X_y=True)
    X, y = StandardScaler().fit_transform(X)[:200], (y[:200] - y.mean()) / y.std()
    options = {
        "hidden_layer_sizes": (20, 7),
        "activation": activation,
        "solver": solver,
        "shuffle": False,
        "batch_size": 50,
        "alpha": 0.1,
        "learning_rate_init": 0.01,
        "random_state": 0,
    }
    theirs = MLPRegressor(max_iter=1, learning_rate="constant", **options)
    theirs._validate_params()
    theirs.partial_fit(X, y)
    ours = NativeMLPRegressor(max_iter=1, **options).partial_fit(X, y)
    # Now both have an optimizer; start again from one point, with fresh moments.
    start = (
        [weight.copy() for weight in theirs.coefs_],
        [bias.copy() for bias in theirs.intercepts_],
    )
    ours._start(X.shape[1])
    for mine, other in zip((*ours.coefs_, *ours.intercepts_), (*start[0], *start[1])):
        mine[...] = other
    del theirs._optimizer
    for _ in range(5):
        theirs.partial_fit(X, y)
        ours.partial_fit(X, y)
        for mine, other in zip(ours.coefs_, theirs.coefs_):
            # Adam's first steps are signs, which rounding decides where a gradient is tiny.
            is_far = np.abs(mine - other) > 2e-4 + 1e-3 * np.abs(other)
            assert is_far.mean() < 0.03
    assert ours.loss_curve_[-1] == pytest.approx(theirs.loss_curve_[-1], rel=0.01)


def test_digits_are_learnt_as_well_as_by_sklearn() -> None:
    X, y = load_digits(return_X_y=True)
    train, test, train_y, test_y = train_test_split(X / 16, y, random_state=0)
    options = {"hidden_layer_sizes": (64,), "max_iter": 60, "random_state": 0}
    ours = NativeMLPClassifier(**options).fit(train, train_y).score(test, test_y)
    theirs = MLPClassifier(**options).fit(train, train_y).score(test, test_y)
    assert ours >= theirs - 0.01
    assert ours > 0.95


def test_probabilities_of_two_classes_of_more_and_of_labels() -> None:
    X, y = load_digits(return_X_y=True)
    for kept in (2, 10):
        chosen = y < kept
        model = NativeMLPClassifier(max_iter=20, random_state=0).fit(X[chosen], y[chosen])
        probabilities = model.predict_proba(X[chosen])
        assert probabilities.shape == (chosen.sum(), kept)
        np.testing.assert_allclose(probabilities.sum(1), 1)
        assert (model.predict(X[chosen]) == probabilities.argmax(1)).all()
        assert model.coefs_[-1].shape == (100, 1 if kept == 2 else 10)
        np.testing.assert_allclose(np.exp(model.predict_log_proba(X[chosen])), probabilities)
    X, labels = make_multilabel_classification(random_state=0)
    model = NativeMLPClassifier(max_iter=100, random_state=0).fit(X, labels)
    assert model.predict(X).shape == labels.shape
    assert (model.predict(X) == labels).mean() > 0.8


def test_they_work_in_pipelines_searches_and_pickles() -> None:
    X, y = load_digits(return_X_y=True)
    X, y = X[:300], y[:300]
    pipeline = make_pipeline(StandardScaler(), NativeMLPClassifier(max_iter=40, random_state=0))
    search = GridSearchCV(pipeline, {"nativemlpclassifier__alpha": [1e-4, 1.0]}, cv=2).fit(X, y)
    assert search.best_score_ > 0.8
    model = search.best_estimator_[-1]
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    for each in (again, model):
        each.partial_fit(X, y)
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert not hasattr(clone(model), "model_")


def test_early_stopping_restores_the_best_and_warm_starts_go_on() -> None:
    X, y = load_digits(return_X_y=True)
    model = NativeMLPClassifier(
        early_stopping=True, n_iter_no_change=3, learning_rate_init=0.02, random_state=0
    ).fit(X, y)
    assert model.n_iter_ < 200
    assert model.validation_scores_ is not None
    assert max(model.validation_scores_) == model.best_validation_score_
    assert len(model.loss_curve_) == len(model.validation_scores_) == model.n_iter_

    model = NativeMLPRegressor(max_iter=5, warm_start=True, random_state=0)
    X, y = load_diabetes(return_X_y=True)
    with pytest.warns(ConvergenceWarning, match="max_iter=5 was reached"):
        model.fit(X, y)
    first = model.loss_
    assert model.fit(X, y).loss_ < first
    assert len(model.loss_curve_) == 10


def test_a_seed_decides_everything() -> None:
    X, y = load_digits(return_X_y=True)
    first, second = (
        NativeMLPClassifier(max_iter=3, random_state=7).fit(X, y).predict_proba(X) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


def test_learning_rates_of_sgd() -> None:
    X, y = load_diabetes(return_X_y=True)
    options = {"solver": "sgd", "random_state": 0, "max_iter": 3, "learning_rate_init": 1e-4}
    model = NativeMLPRegressor(learning_rate="invscaling", **options).fit(X, y)
    rate = model._optimizer.param_groups[0]["lr"]
    assert rate == pytest.approx(1e-4 / (3 * len(X) + 1) ** 0.5)
    options |= {"max_iter": 1000, "tol": 1e9, "n_iter_no_change": 2}
    model = NativeMLPRegressor(learning_rate="adaptive", **options).fit(X, y)
    assert model._optimizer.param_groups[0]["lr"] < 1e-6 * 5
    assert model.n_iter_ < 1000


def test_bad_options_are_named() -> None:
    X, y = load_diabetes(return_X_y=True)
    with pytest.raises(ValueError, match="'solver' parameter of NativeMLPRegressor must be"):
        NativeMLPRegressor(solver="lbfgs").fit(X, y)
    with pytest.raises(ValueError, match="hidden_layer_sizes must be > 0"):
        NativeMLPRegressor(hidden_layer_sizes=(3, 0)).fit(X, y)
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
        NativeMLPRegressor(early_stopping=True).partial_fit(X, y)
    with pytest.raises(ValueError, match="leaves 1 of the samples for validation"):
        NativeMLPRegressor(early_stopping=True).fit(X[:10], y[:10])


KINDS = ("binary", "multiclass", "multilabel", "regressor", "regressor of two", "counts")


def samples_of(kind: str, samples: int = 130) -> tuple[Any, Any]:
    """Return samples, and what they should be."""
    random = np.random.default_rng(0)
    X = random.normal(size=(samples, 7)).astype(np.float32)
    scores = X @ random.normal(size=(7, 3)) + 0.1
    targets = {
        "binary": scores[:, 0] > 0,
        "multiclass": scores.argmax(1),
        "multilabel": (scores > 0).astype(int),
        "regressor": scores[:, 0],
        "regressor of two": scores[:, :2],
        "counts": random.poisson(np.exp(0.2 * scores[:, 0])),
    }
    return X, targets[kind]


def model_of(kind: str, **options: Any) -> Any:
    if kind in ("binary", "multiclass", "multilabel"):
        return NativeMLPClassifier(**options)
    return NativeMLPRegressor("poisson" if kind == "counts" else "squared_error", **options)


def classes_of(kind: str, y: Any) -> dict[str, Any]:
    """Return what `partial_fit` wants to know at its first call."""
    if isinstance(model_of(kind), NativeMLPRegressor):
        return {}
    return {"classes": np.arange(y.shape[1]) if y.ndim == 2 else np.unique(y)}


def params_of(model: Any) -> list[Any]:
    return [*model.coefs_, *model.intercepts_]


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize(("batch_size", "alpha"), [(50, 2.0), (50, 0.0), (130, 2.0)])
@pytest.mark.parametrize("kind", KINDS)
def test_sgd_with_weights_is_sklearns(
    kind: str, batch_size: int, alpha: float, is_weighted: bool
) -> None:
    X, y = samples_of(kind)
    weights = np.random.default_rng(1).uniform(0, 3, len(X)) if is_weighted else None
    options: dict[str, Any] = {
        "hidden_layer_sizes": (20,),
        "solver": "sgd",
        "momentum": 0.0,
        "shuffle": False,
        "batch_size": batch_size,
        "random_state": 0,
    }
    ours = model_of(kind, alpha=alpha, learning_rate_init=0.1, **options)
    like = MLPClassifier if isinstance(ours, NativeMLPClassifier) else MLPRegressor
    theirs = like(**ours.get_params())
    for model in (theirs, ours):
        model.partial_fit(X.astype(np.float64), y, sample_weight=weights, **classes_of(kind, y))
    for mine, other in zip(params_of(ours), params_of(theirs)):
        other[...] = mine
    for model in (theirs, ours):
        model.partial_fit(X.astype(np.float64), y, sample_weight=weights)
    for mine, other in zip(params_of(ours), params_of(theirs)):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)
    # Ours has no terms of the counts alone.
    if kind != "counts":
        assert ours.loss_ == pytest.approx(theirs.loss_, rel=1e-5)


@pytest.mark.parametrize("learning_rate", ["invscaling", "adaptive"])
@pytest.mark.parametrize("kind", ["multilabel", "multiclass", "regressor of two"])
def test_the_learning_rate_falls_as_sklearns(kind: str, learning_rate: str) -> None:
    X, y = samples_of(kind)
    X = X.astype(np.float64)
    options: dict[str, Any] = {
        "solver": "sgd",
        "momentum": 0.0,
        "learning_rate": learning_rate,
        "learning_rate_init": 0.1,
        "shuffle": False,
        "batch_size": 50,
        "tol": 0.02,
        "n_iter_no_change": 2,
        "max_iter": 25,
        "random_state": 0,
        "warm_start": True,
    }
    ours = model_of(kind, **options)
    like = MLPClassifier if isinstance(ours, NativeMLPClassifier) else MLPRegressor
    theirs = like(**ours.get_params())
    for model in (theirs, ours):
        model.fit(X, y)
    for mine, other in zip(params_of(ours), params_of(theirs)):
        other[...] = mine
    theirs.t_ = ours.t_
    for model in (theirs, ours):
        model.set_params(learning_rate_init=0.2)
        model.loss_curve_, model.best_loss_ = [], np.inf
        model._stale = model._no_improvement_count = 0
    ours._set_rate(0.2)
    for model in (theirs, ours):
        model.fit(X, y)
    assert len(ours.loss_curve_) == len(theirs.loss_curve_)
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-4)
    for mine, other in zip(params_of(ours), params_of(theirs)):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)


def test_adam_of_several_outputs_is_that_of_their_sum() -> None:
    X, y = samples_of("regressor of two")
    ours = NativeMLPRegressor(batch_size=200, epsilon=0.5, alpha=0.3, random_state=0)
    ours.partial_fit(X, y)
    model, inputs, target = ours.model_, torch.from_numpy(X), torch.from_numpy(y).float()
    expected = copy.deepcopy(model)
    layers = [layer for layer in expected if isinstance(layer, nn.Linear)]
    weights = [layer.weight for layer in layers]
    biases = [layer.bias for layer in layers]
    optimizer = torch.optim.Adam([{"params": weights}, {"params": biases}])
    optimizer.load_state_dict(copy.deepcopy(ours._optimizer.state_dict()))
    for group in optimizer.param_groups:
        group["eps"] = 0.5
    squares = sum((weight**2).sum() for weight in weights)
    loss = 0.5 * ((expected(inputs) - target) ** 2).sum() / len(X) + 0.15 * squares / len(X)
    loss.backward()
    for state in optimizer.state.values():
        # What the kernels have gathered of a gradient that is a half.
        state["exp_avg"] *= 2
        state["exp_avg_sq"] *= 4
    optimizer.step()
    ours.partial_fit(X, y)
    for mine, other in zip(model.parameters(), expected.parameters()):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_many_epochs_are_one_call(
    solver: str, shuffle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = samples_of("multiclass")
    options = {
        "solver": solver,
        "learning_rate": "adaptive",
        "learning_rate_init": 0.05,
        "batch_size": 50,
        "tol": 1e-2,
        "n_iter_no_change": 4,
        "shuffle": shuffle,
        "max_iter": 300,
        "random_state": 0,
    }
    calls: list[int] = []
    train = NativeTrainer.train_batches

    def train_batches(self: Any, x: Any, y: Any, order: Any, **kwargs: Any) -> int:
        calls.append(len(order))
        return train(self, x, y, order, **kwargs)

    monkeypatch.setattr(NativeTrainer, "train_batches", train_batches)
    many = NativeMLPClassifier(**options).fit(X, y)
    assert calls[0] == 5
    assert sum(calls) == many.n_iter_ == len(many.loss_curve_) < 300
    for looking in ({"early_stopping": True}, {"verbose": True}):
        calls.clear()
        NativeMLPClassifier(**options, **looking).fit(X, y)
        assert set(calls) == {1}
    monkeypatch.setattr(estimators, "_ORDERED", 2 * len(X) + 1)
    calls.clear()
    single = NativeMLPClassifier(**options).fit(X, y)
    assert max(calls) == 2
    assert many.loss_curve_ == single.loss_curve_
    for mine, other in zip(params_of(many), params_of(single)):
        np.testing.assert_array_equal(mine, other)


def test_an_interrupt_ends_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = samples_of("multiclass")
    options = {"batch_size": 50, "random_state": 0}
    expected = NativeMLPClassifier(max_iter=3, **options).fit(X, y)
    looks = itertools.count(1)

    def clock() -> float:
        # Before the third call of the kernels, after 1 batch and 10.
        if next(looks) == 5:
            raise KeyboardInterrupt
        return 0.0

    monkeypatch.setattr(native_trainer, "time", SimpleNamespace(perf_counter=clock))
    model = NativeMLPClassifier(**options)
    with pytest.warns(UserWarning, match=r"Training interrupted by user\."):
        model.fit(X, y)
    assert model.n_iter_ == 3
    assert model.loss_curve_ == expected.loss_curve_
    assert model.score(X, y) > 0.3


def test_epochs_before_a_loss_that_is_not_finite_are_counted() -> None:
    X, y = samples_of("regressor")
    model = NativeMLPRegressor(solver="sgd", learning_rate_init=1.0, batch_size=50, random_state=0)
    with pytest.raises(NonFiniteError, match="the loss of a batch is inf, or a gradient is not"):
        model.fit(X, y)
    assert 0 < model.n_iter_ == len(model.loss_curve_) < 11
    assert np.isfinite(model.loss_curve_).all()
    assert 0 not in model.loss_curve_


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_one_change_no_bit(kind: str) -> None:
    X, y = samples_of(kind)
    models = [
        model_of(kind, max_iter=5, batch_size=50, random_state=0).fit(X, y, sample_weight=weights)
        for weights in (None, np.ones(len(X)), 1)
    ]
    for model in models[1:]:
        assert model.loss_curve_ == models[0].loss_curve_
        for mine, other in zip(params_of(model), params_of(models[0])):
            np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_repeated_samples(kind: str) -> None:
    X, y = samples_of(kind)
    # All are in one batch, whose order only rounding sees.
    times = np.random.default_rng(1).integers(0, 4, len(X))
    options = {"max_iter": 50, "batch_size": 1000, "random_state": 0, "alpha": 1.0}
    options |= {"solver": "sgd", "learning_rate_init": 0.01}
    weighted = model_of(kind, **options).fit(X, y, sample_weight=times)
    repeated = model_of(kind, **options).fit(X.repeat(times, 0), y.repeat(times, 0))
    np.testing.assert_allclose(weighted._outputs(X), repeated._outputs(X), rtol=1e-5, atol=1e-5)
    assert weighted.loss_ == pytest.approx(repeated.loss_, rel=1e-5)


def test_early_stopping_splits_and_uses_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = samples_of("regressor")
    trained, scored = [], []

    def train_batches(self: Any, x: Any, target: Any, *args: Any, **kwargs: Any) -> int:
        trained.append((target[:, 0].numpy(), kwargs["weights"].numpy()))
        return train(self, x, target, *args, **kwargs)

    def score(target: Any, preds: Any, sample_weight: Any) -> float:
        scored.append((target, sample_weight))
        return 0.5

    train = estimators.NativeTrainer.train_batches
    monkeypatch.setattr(estimators.NativeTrainer, "train_batches", train_batches)
    monkeypatch.setattr(estimators, "r2_score", score)
    monkeypatch.setattr(estimators, "accuracy_score", score)
    numbers = np.abs(y).astype(np.float32)
    for kind, y in ((NativeMLPRegressor, numbers), (NativeMLPClassifier, numbers > 1)):
        model = kind(early_stopping=True, max_iter=1, random_state=0)
        model.fit(X, y, sample_weight=y + 1)
        (trained_y, trained_weights), (scored_y, scored_weights) = trained.pop(), scored.pop()
        assert (len(trained_y), len(scored_y)) == (117, 13)
        # Each sample has its own.
        np.testing.assert_array_equal(trained_weights, trained_y + 1)
        np.testing.assert_array_equal(scored_weights, scored_y + 1)

    monkeypatch.undo()
    model = NativeMLPClassifier(early_stopping=True, max_iter=2, random_state=0)
    with pytest.raises(ValueError, match="sample_weight is 0 for all samples that are held out"):
        model.fit(X, y, sample_weight=np.arange(len(X)) == 0)


@pytest.mark.parametrize("kind", [NativeMLPClassifier, NativeMLPRegressor])
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(129), r"sample_weight.shape == \(129,\), expected \(130,\)"),
        (np.ones((130, 1)), "Sample weights must be 1D array or scalar, got 2D array"),
        (np.full(130, np.nan), "Input sample_weight contains NaN"),
        (np.nan, r"sample_weight\[0\] is nan, must be finite and >= 0"),
        (np.linspace(-1, 1, 130), "Negative values in data passed to `sample_weight`"),
        (np.zeros(130), "Sample weights must contain at least one non-zero number"),
        (np.arange(130) >= 50, "the weights of batch 0 of [0-9]+ are all 0"),
    ],
)
def test_bad_weights_are_named(kind: Any, weights: Any, message: str) -> None:
    X, y = samples_of("binary")
    model = kind(batch_size=50, shuffle=False)
    with pytest.raises(ValueError, match=message):
        model.fit(X, y, sample_weight=weights)
    classes = {"classes": [0, 1]} if kind is NativeMLPClassifier else {}
    with pytest.raises(ValueError, match=message):
        kind(batch_size=50, shuffle=False).partial_fit(X, y, sample_weight=weights, **classes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "container", [sparse.csr_array, sparse.csc_array, sparse.csr_matrix, sparse.csc_matrix]
)
def test_sparse_samples_are_those_of_their_dense_form(kind: str, container: Any) -> None:
    X, y = samples_of(kind, 300)
    X[np.abs(X) < 1] = 0
    many = np.tile(X, (17, 1))
    assert len(many) > estimators._CHUNK
    weights = np.linspace(1, 2, len(X))
    results = []
    for samples, others in ((X, many), (container(X), container(many))):
        model = model_of(kind, max_iter=5, early_stopping=True, random_state=0)
        model.fit(samples, y, sample_weight=weights)
        results.append([*params_of(model), model._outputs(others)])
        model = model_of(kind, random_state=0)
        model.partial_fit(samples, y, sample_weight=weights, **classes_of(kind, y))
        results[-1] += [*params_of(model), model.predict(others)]
    for ours, theirs in zip(*results):
        np.testing.assert_array_equal(ours, theirs)


def test_poisson_loss_is_sklearns() -> None:
    X, y = samples_of("counts")
    weights = np.linspace(1, 2, len(X))
    options = {"solver": "sgd", "momentum": 0.0, "alpha": 0.5, "random_state": 0}
    theirs = MLPRegressor("poisson", **options).partial_fit(X, y)
    ours = NativeMLPRegressor("poisson", **options).partial_fit(X, y)
    for mine, other in zip(params_of(ours), params_of(theirs)):
        mine[...] = other
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-5)
    assert ours.score(X, y) == pytest.approx(theirs.score(X, y), rel=1e-5)
    for model in (ours, theirs):
        model.partial_fit(X, y, sample_weight=weights)
    rest = np.average(special.xlogy(y, y) - y, weights=weights)
    assert ours.loss_ + rest == pytest.approx(theirs.loss_, rel=1e-5)
    assert ours.out_activation_ == theirs.out_activation_ == "exp"
    with pytest.raises(ValueError, match="y must be >= 0 with loss='poisson', got -1"):
        ours.fit(X, y - 1)
    with pytest.raises(ValueError, match="'loss' parameter of NativeMLPRegressor must be"):
        NativeMLPRegressor("hinge").fit(X, y)
