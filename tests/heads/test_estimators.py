"""The scikit-learn estimators: its own checks, parameters that are the settings', and what bad input gets."""

import doctest
import inspect
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.ensemble import BaggingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from nml_ray.config.errors import UserError
from nml_ray.data.draw import key_hashes
from nml_ray.heads import estimators
from nml_ray.heads.config import KINDS, head_setting
from nml_ray.heads.errors import HeadError
from nml_ray.heads.estimators import LinearProbe, MLPTuneClassifier, NMTuneClassifier
from nml_ray.heads.fit import fit

KIND = {"linear_probe": LinearProbe, "mlp": MLPTuneClassifier, "nmtune": NMTuneClassifier}
CLASSES = list(KIND.values())
N, D, NAMES = 96, 6, np.array(["cat", "dog", "owl"])


def samples(seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Features [N, D] around class centres and names [N]."""
    generator = np.random.default_rng(seed)
    index = generator.integers(0, len(NAMES), N)
    centres = 3 * np.random.default_rng(9).normal(size=(len(NAMES), D))
    return (centres[index] + generator.normal(size=(N, D))).astype(np.float32), NAMES[index]


def quick(kind: type, **changes: Any) -> Any:
    return kind(**{"epochs": 4, "batch": 8, "learning_rate": 0.03, **changes})


@pytest.mark.filterwarnings("ignore")  # scikit-learn's checks warn on purpose
@pytest.mark.parametrize(
    "estimator",
    [
        *(quick(kind, epochs=5, batch=16) for kind in CLASSES),
        pytest.param(quick(NMTuneClassifier, preset="official", epochs=8, batch=16), marks=pytest.mark.long),
    ],
    ids=str,
)
def test_scikit_learn_accepts_it(estimator: Any) -> None:
    check_estimator(estimator, on_skip=None)


@pytest.mark.parametrize("head", KIND)
@pytest.mark.parametrize("preset", ["paper", "official"])
def test_parameters_are_the_fields_of_the_setting(head: str, preset: str) -> None:
    parameters = inspect.signature(KIND[head]).parameters
    assert set(parameters) == {*KINDS[head].model_fields, "random_state"} - {"head"}
    paper, official = (head_setting(head, name).model_dump() for name in ("paper", "official"))
    for name in set(parameters) - {"preset", "random_state"}:
        assert parameters[name].default == (paper[name] if paper[name] == official[name] else None), name
    X, y = samples()
    fitted = KIND[head](preset=preset, epochs=1).fit(X, y)
    assert fitted.head_.setting == head_setting(head, preset, epochs=1)


@pytest.mark.parametrize("test", doctest.DocTestFinder().find(estimators), ids=lambda test: test.name)
def test_examples_say_the_truth(test: doctest.DocTest) -> None:
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0


@pytest.mark.parametrize("head", KIND)
def test_it_is_the_head_that_a_study_fits_with_row_numbers_as_keys(head: str) -> None:
    X, y = samples()
    estimator = quick(KIND[head], random_state=7).fit(X, y)
    setting = head_setting(head, epochs=4, batch=8, learning_rate=0.03)
    fitted = fit(setting, X, np.searchsorted(NAMES, y), key_hashes(str(row) for row in range(N)), seed=7)
    assert estimator.head_.losses == fitted.losses
    assert np.array_equal(estimator.decision_function(X), fitted.predict_logits(X))
    assert np.array_equal(estimator.transform(X), fitted.transform(X))
    assert np.array_equal(estimator.predict(X), NAMES[fitted.predict(X)])


def test_order_of_rows_and_random_state_are_other_draws_of_the_same() -> None:
    X, y = samples()
    one = quick(MLPTuneClassifier).fit(X, y)
    for other in (quick(MLPTuneClassifier).fit(X[::-1], y[::-1]), quick(MLPTuneClassifier, random_state=1).fit(X, y)):
        assert other.head_.losses != one.head_.losses
        assert other.score(X, y) > 0.95 and one.score(X, y) > 0.95


@pytest.mark.parametrize("kind", CLASSES)
def test_names_are_learnt_and_outputs_agree(kind: type) -> None:
    X, y = samples(1)
    head = quick(kind, epochs=8).fit(*samples())
    assert head.score(X, y) > 0.95
    assert head.classes_.tolist() == NAMES.tolist() and head.n_features_in_ == D
    probabilities, logits = head.predict_proba(X), head.decision_function(X)
    assert probabilities.dtype == logits.dtype == head.transform(X).dtype == np.float32
    assert probabilities.shape == logits.shape == (N, 3) and head.transform(X).shape == (N, D)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    exact = np.exp(logits.astype(float))
    np.testing.assert_allclose(probabilities, exact / exact.sum(axis=1, keepdims=True), rtol=1e-5)
    assert (NAMES[probabilities.argmax(axis=1)] == head.predict(X)).all()


def test_of_two_classes_the_decision_is_one_number() -> None:
    X, y = samples()
    head = quick(LinearProbe).fit(X, y == "owl")
    decision = head.decision_function(X)
    assert decision.shape == (N,)
    assert np.array_equal(head.predict(X), decision > 0)
    np.testing.assert_allclose(head.predict_proba(X)[:, 1], 1 / (1 + np.exp(-decision)), rtol=1e-4)


def test_pipelines_searches_and_ensembles() -> None:
    X, y = samples()
    piped = make_pipeline(StandardScaler(), quick(NMTuneClassifier))
    assert cross_val_score(piped, X, y, cv=2).min() > 0.9
    grid = {"learning_rate": np.array([0.001, 0.03]), "batch": np.array([16, 32]), "residual": np.array([True])}
    search = GridSearchCV(quick(MLPTuneClassifier), grid, cv=2).fit(X, y)
    assert search.best_params_["learning_rate"] == 0.03 and search.score(X, y) > 0.95
    assert BaggingClassifier(quick(LinearProbe), 2, random_state=0).fit(X, y).score(X, y) > 0.9
    Z = make_pipeline(quick(MLPTuneClassifier), quick(LinearProbe)).fit(X, y)
    assert Z.score(X, y) > 0.95
    assert Z[0].get_feature_names_out().shape == (D,)


def test_a_clone_has_the_parameters_and_nothing_else() -> None:
    head = quick(NMTuneClassifier, preset="official").fit(*samples())
    copy = clone(head)
    assert copy.get_params() == head.get_params() and copy.preset == "official"
    with pytest.raises(NotFittedError):
        copy.predict(samples()[0])


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("preset", ["paper", "official"])
def test_few_rows_get_the_right_answer(kind: type, preset: str) -> None:
    head = quick(kind, preset=preset, standardise=True, epochs=40)
    X, y = np.array([[-2.0], [-1.9], [-2.2], [2.0], [2.1], [1.8]]), np.array(list("aaabbb"))
    assert head.fit(X, y).predict([[-2.0], [2.0]]).tolist() == ["a", "b"]  # D of 1
    X, y = np.array([[0.0, 0], [0.1, 0], [0, 0.1], [5, 5]]), np.array([4, 4, 4, -1])
    assert head.fit(X, y).predict(X).tolist() == y.tolist()  # a class with one sample


@pytest.mark.filterwarnings("ignore:The number of unique classes")
@pytest.mark.parametrize("kind", CLASSES)
def test_as_many_classes_as_rows_and_fewer_rows_than_classes(kind: type) -> None:
    X = 5 * np.eye(8)
    head = quick(kind, epochs=60).fit(X, np.arange(8))
    assert head.predict(X).tolist() == list(range(8))
    assert head.predict_proba(X[:2]).shape == (2, 8)


@pytest.mark.parametrize("kind", CLASSES)
def test_float16_features_are_taken_as_they_are(kind: type) -> None:
    X, y = samples()
    half = X.astype(np.float16)
    one, two = quick(kind).fit(half, y), quick(kind).fit(half.astype(np.float64), y)
    assert np.array_equal(one.predict_proba(half), two.predict_proba(half.astype(np.float32)))


def test_numbers_of_other_types_are_converted() -> None:
    X, y = samples()
    whole = np.round(X)
    probabilities = quick(LinearProbe).fit(whole, y).predict_proba(whole)
    for kind in (np.int8, ">f4", ">f8", object):
        other = whole.astype(kind)
        assert np.array_equal(quick(LinearProbe).fit(other, y).predict_proba(other), probabilities), kind


def spoilt(value: float, dtype: Any = np.float32) -> NDArray[Any]:
    features = samples()[0].astype(dtype)
    with np.errstate(over="ignore"):
        features[3, 1] = np.float64(value).astype(dtype)
    return features


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize(
    ("features", "message"),
    [
        (spoilt(np.nan), "Input X contains NaN"),
        (spoilt(np.inf), "Input X contains infinity"),
        (spoilt(-np.inf), "Input X contains infinity"),
        (spoilt(70000, np.float16), "Input X contains infinity or a value too large for dtype"),
        (spoilt(1e39, np.float64), "X: a value of size 1e[+]39; expected at most 3.4e[+]38, or dtype='float64'"),
        (spoilt(-1e39, np.float64), "X: a value of size 1e[+]39"),
    ],
)
def test_numbers_that_are_none(kind: type, features: NDArray[Any], message: str) -> None:
    X, y = samples()
    with pytest.raises(ValueError, match=message):
        quick(kind).fit(features, y)
    with pytest.raises(ValueError, match=message):
        quick(kind).fit(X, y).predict(features)


def test_large_finite_float16_features_do_not_overflow() -> None:
    X, y = samples()
    half = (X * 3000).astype(np.float16)
    assert np.abs(half).max() > 20000
    assert quick(MLPTuneClassifier, standardise=True).fit(half, y).score(half, y) > 0.95


def test_one_class_and_one_row() -> None:
    X, _ = samples()
    with pytest.raises(HeadError, match=r"^y: one class \('cat'\); expected at least 2 classes$"):
        LinearProbe().fit(X, ["cat"] * N)
    with pytest.raises(HeadError, match="one class"):
        NMTuneClassifier(preset="official").fit(X[:1], [1])


def test_a_fit_that_diverges_is_an_error_that_says_what_to_do() -> None:
    X, y = samples()
    message = "the loss left the finite numbers in epoch 1 of 4; expected a learning_rate below 1e[+]30"
    head = quick(NMTuneClassifier, learning_rate=1e30)
    with pytest.raises(HeadError, match=message):
        head.fit(X * 1e6, y)
    with pytest.raises(NotFittedError):
        head.predict(X)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (LinearProbe, {"learning_rate": 0}, "LinearProbe: learning_rate = 0; expected greater than 0"),
        (LinearProbe, {"batch": 1}, "LinearProbe: batch = 1; expected greater than or equal to 2"),
        (LinearProbe, {"dtype": "float16"}, "dtype = 'float16'; expected 'float32' or 'float64'"),
        (LinearProbe, {"preset": "papre"}, "preset = 'papre'; expected 'paper' or 'official'"),
        (MLPTuneClassifier, {"residual_init": np.nan}, "residual_init = nan; expected a finite number"),
        (NMTuneClassifier, {"top_k": 0.5}, "top_k = 0.5; expected a valid integer"),
        (NMTuneClassifier, {"random_state": -1}, "random_state = -1; expected a whole number from 0 to 2"),
        (NMTuneClassifier, {"random_state": None}, "random_state = None; expected a whole number"),
    ],
)
def test_impossible_parameters(kind: type, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("^", r"\^")) as caught:
        kind(**changes).fit(*samples())
    assert isinstance(caught.value, ValueError)
