"""The estimators against scikit-learn's own, and against what scikit-learn asks of any."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from hotloop import backend
from hotloop.native.estimators import NativeMLPClassifier, NativeMLPRegressor

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
    results = check_estimator(estimator, on_fail=None, on_skip=None)
    failed = [
        (each["check_name"], each["exception"]) for each in results if each["status"] == "failed"
    ]
    assert failed == []
    assert sum(each["status"] == "passed" for each in results) > 40


def test_defaults_are_sklearns() -> None:
    for ours, theirs in ((NativeMLPClassifier, MLPClassifier), (NativeMLPRegressor, MLPRegressor)):
        missing = {"max_fun", "loss"}
        expected = {k: v for k, v in theirs().get_params().items() if k not in missing}
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
