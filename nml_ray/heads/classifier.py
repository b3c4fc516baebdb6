"""What the scikit-learn classifiers of `heads.estimators` have in common: everything but their parameters."""

import numbers
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from nml_ray.data.draw import key_hashes
from nml_ray.heads import fit as fitting
from nml_ray.heads.config import HeadName, HeadSetting, Preset, head_setting
from nml_ray.heads.errors import HeadError
from nml_ray.heads.fitted import FittedHead, Values

DType = Literal["float32", "float64"]

_FLOATS = (np.float64, np.float32, np.float16)


class HeadClassifier(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClassifierMixin, BaseEstimator):
    """What all heads do once they have their parameters."""

    _head: ClassVar[HeadName]

    head_: FittedHead
    classes_: NDArray[Any]
    n_features_in_: int

    def __init__(
        self,
        *,
        preset: Preset,
        learning_rate: float | None,
        weight_decay: float | None,
        epochs: int,
        batch: int,
        warmup_steps: int,
        standardise: bool,
        dtype: DType,
        random_state: int,
    ) -> None:
        self.preset = preset
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch = batch
        self.warmup_steps = warmup_steps
        self.standardise = standardise
        self.dtype = dtype
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Fit the head.

        Args:
            X: features [N, D], finite, N >= 2; float16, float32 and float64 are read as they are.
            y: labels [N], numbers or strings, of at least two classes. A class may have a single row.

        Returns:
            The estimator itself, with `head_`, `classes_` [C] ascending and `n_features_in_` = D.

        Raises:
            HeadError: a ValueError: a parameter is impossible, there is one class, a value of X is too large for
                `dtype`, or the loss left the finite numbers.
            ValueError: X or y is of another shape, holds NaN or infinity, or they differ in length.
        """
        setting, seed = self._setting(), self._seed()
        features, labels = validate_data(self, X, y, dtype=_FLOATS)
        check_classification_targets(labels)
        _check_size(features, setting.dtype)
        classes, targets = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise HeadError(f"one class ({classes.tolist()[0]!r})", where="y", expected="at least 2 classes")
        keys = key_hashes(str(row) for row in range(len(features)))
        fitted = fitting.fit(setting, features, targets, keys, seed)
        if fitted.diverged:
            raise HeadError(
                f"the loss left the finite numbers in epoch {len(fitted.losses) + 1} of {setting.epochs}",
                where=type(self).__name__,
                expected=f"a learning_rate below {setting.learning_rate:g}, or standardise=True",
            )
        self.head_, self.classes_, self._n_features_out = fitted, classes, features.shape[1]
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """The most likely class of each row.

        Args:
            X: features [M, D].

        Returns:
            Labels [M], of the type that `fit` was given.

        Raises:
            NotFittedError: before `fit`.
            ValueError: X has another width than in `fit`, holds NaN or infinity, or a value too large for `dtype`.
        """
        logits = self._logits(X)
        return self.classes_[logits.argmax(axis=1)]

    def predict_proba(self, X: Any) -> Values:
        """Softmax of the logits of X [M, D]: [M, C], columns as in `classes_`, in `dtype`. Raises as `predict`."""
        shares = self._logits(X)
        shares -= shares.max(axis=1, keepdims=True)
        np.exp(shares, out=shares)
        shares /= shares.sum(axis=1, keepdims=True)
        return shares

    def decision_function(self, X: Any) -> Values:
        """Logits of X [M, D]: [M, C], columns as in `classes_`, in `dtype`. Raises as `predict`.

        Of two classes, as scikit-learn has it, the second's logit less the first's: [M].
        """
        logits = self._logits(X)
        return logits if len(self.classes_) > 2 else logits[:, 1] - logits[:, 0]

    def transform(self, X: Any) -> Values:
        """Z of X [M, D], the features as the classifier of the head sees them: [M, D] in `dtype`. Raises as `predict`.

        Of a linear probe these are the features, standardised where it does that.
        """
        check_is_fitted(self, "head_")
        return self.head_.transform(self._features(X))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # Z is of the parameter `dtype`
        return tags

    def _logits(self, X: Any) -> Values:
        check_is_fitted(self, "head_")
        return self.head_.predict_logits(self._features(X))

    def _features(self, X: Any) -> Values:
        features = validate_data(self, X, dtype=_FLOATS, reset=False)
        _check_size(features, self.head_.setting.dtype)
        return features

    def _setting(self) -> HeadSetting:
        given = self.get_params(deep=False)
        del given["random_state"]
        plain = {
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in given.items()
            if value is not None
        }
        try:
            return head_setting(self._head, **plain)
        except ValidationError as failure:
            error = failure.errors()[0]
            name = str(error["loc"][0])
            raise HeadError(
                f"{name} = {given[name]!r}",
                where=type(self).__name__,
                expected=error["msg"].removeprefix("Input should be "),
            ) from None

    def _seed(self) -> int:
        seed = self.random_state
        if not isinstance(seed, numbers.Integral) or not 0 <= seed < 2**64:
            raise HeadError(
                f"random_state = {seed!r}", where=type(self).__name__, expected="a whole number from 0 to 2^64 - 1"
            )
        return int(seed)


def _check_size(features: Values, dtype: DType) -> None:
    """Refuse numbers that would become infinite in the head's dtype."""
    limit = np.finfo(dtype).max
    if np.finfo(features.dtype).max <= limit:
        return
    largest = max(features.max(), -features.min())
    if largest > limit:
        raise HeadError(
            f"a value of size {largest:.3g}", where="X", expected=f"at most {limit:.3g}, or dtype='float64'"
        )
