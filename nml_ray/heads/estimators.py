"""The heads as scikit-learn classifiers of features X [N, D] and labels y [N].

They fit what a study fits: row numbers take the place of sample keys, so the same rows in the same order, imported as
an .npy file, give a study the same head to the bit. The order of rows therefore matters as a seed does: shuffled rows
are another draw of the same experiment. No validation split is taken from X and nothing is chosen while fitting;
cross-validation and `GridSearchCV` do that from outside. Nothing is drawn from global random generators.

    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> head = NMTuneClassifier(epochs=5).fit(X[::2], y[::2])
    >>> bool(head.score(X[1::2], y[1::2]) > 0.9)
    True
"""

from typing import ClassVar, Literal

from nml_ray.heads.classifier import DType, HeadClassifier
from nml_ray.heads.config import HeadName, Preset

__all__ = ["LinearProbe", "MLPTuneClassifier", "NMTuneClassifier"]


class LinearProbe(HeadClassifier):
    """A linear classifier on frozen features X [N, D], trained by cross-entropy with AdamW.

    Parameters:
        preset: where values left None come from: the paper's text, or its published implementation (`official`).
        learning_rate: peak, reached after the warm-up; then half a cosine down to zero, by step. None: 0.1 (0.01).
        weight_decay: decoupled, on every parameter. None: 0 (1e-4).
        epochs: passes over the rows.
        batch: rows in a step, at least 2; all of them where there are fewer. Of an epoch's last, incomplete batch
            nothing is used; the order differs from epoch to epoch.
        warmup_steps: steps of linear warm-up.
        standardise: give every feature mean 0 and standard deviation 1 on the rows of `fit` first.
        dtype: of the arithmetic and of all outputs.
        random_state: 0 .. 2^64-1; initialisation and order.

    Attributes:
        head_: the `FittedHead`, with the setting, the loss of each epoch, `save` and more.
        classes_: labels [C], ascending.
        n_features_in_: D.

        >>> from sklearn.datasets import load_digits
        >>> X, y = load_digits(return_X_y=True)
        >>> probe = LinearProbe(epochs=5).fit(X[::2], y[::2])
        >>> bool(probe.score(X[1::2], y[1::2]) > 0.9)
        True
    """

    _head: ClassVar[HeadName] = "linear_probe"

    def __init__(
        self,
        *,
        preset: Preset = "paper",
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        epochs: int = 30,
        batch: int = 64,
        warmup_steps: int = 0,
        standardise: bool = False,
        dtype: DType = "float32",
        random_state: int = 0,
    ) -> None:
        super().__init__(
            preset=preset,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            epochs=epochs,
            batch=batch,
            warmup_steps=warmup_steps,
            standardise=standardise,
            dtype=dtype,
            random_state=random_state,
        )


class MLPTuneClassifier(HeadClassifier):
    """An MLP from D to D and a linear classifier on frozen features X [N, D], trained by cross-entropy alone.

    Parameters (and those of `LinearProbe`, here with learning_rate 1e-3 and weight_decay 1e-4):
        ratio: width of a hidden layer, in multiples of D.
        layers: hidden layers.
        batch_norm: BatchNorm between each hidden layer and its ReLU. None: no (`official`: yes).
        residual: Z = s * mlp(x) + x with a learnable scale s [D], instead of Z = mlp(x). None: no (yes).
        residual_init: what the entries of s begin at.

    Attributes as `LinearProbe`.

        >>> from sklearn.datasets import load_digits
        >>> X, y = load_digits(return_X_y=True)
        >>> head = MLPTuneClassifier(epochs=5).fit(X[::2], y[::2])
        >>> bool(head.score(X[1::2], y[1::2]) > 0.9), head.transform(X).shape
        (True, (1797, 64))
    """

    _head: ClassVar[HeadName] = "mlp"

    def __init__(
        self,
        *,
        preset: Preset = "paper",
        learning_rate: float | None = 1e-3,
        weight_decay: float | None = 1e-4,
        epochs: int = 30,
        batch: int = 64,
        warmup_steps: int = 0,
        standardise: bool = False,
        dtype: DType = "float32",
        ratio: float = 4,
        layers: int = 1,
        batch_norm: bool | None = None,
        residual: bool | None = None,
        residual_init: float = 1.0,
        random_state: int = 0,
    ) -> None:
        super().__init__(
            preset=preset,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            epochs=epochs,
            batch=batch,
            warmup_steps=warmup_steps,
            standardise=standardise,
            dtype=dtype,
            random_state=random_state,
        )
        self.ratio = ratio
        self.layers = layers
        self.batch_norm = batch_norm
        self.residual = residual
        self.residual_init = residual_init


class NMTuneClassifier(MLPTuneClassifier):
    """NMTune: the MLP and classifier of `MLPTuneClassifier`, regularised against noise in pre-training.

    Minimises, on each batch X [B, D] with Z = mlp(X) [B, D] (paper, equation 6),

        cross-entropy + mse_weight * L_MSE + cov_weight * L_COV + svd_weight * L_SVD

    where L_MSE is the squared distance of the row-normalised Z to the row-normalised X (equation 3), L_COV the sum of
    the squared off-diagonal covariances of Z divided by D (equation 4), and L_SVD minus the share of the largest
    singular values of Z in their sum (equation 5).

    Parameters (and those of `MLPTuneClassifier`); None is the paper's value, in brackets that of `official`:
        mse_weight: None: 0.01 (1.0).
        mse_norm: L_MSE is summed over D and averaged over rows (`paper`), or averaged over both (`official`).
        cov_weight: None: 0.01 (0.04).
        svd_weight: None: 0.01 (0.001).
        top_k: L_SVD averages the shares of this many singular values. None: 1 (5).
        views: kept with the setting, but without effect here: X is one view of each sample, and a `pair` needs two.

    Attributes as `LinearProbe`.

        >>> from sklearn.datasets import load_digits
        >>> X, y = load_digits(return_X_y=True)
        >>> head = NMTuneClassifier(epochs=10, mse_weight=0.1, top_k=5).fit(X[::2], y[::2])
        >>> bool(head.score(X[1::2], y[1::2]) > 0.9)
        True
    """

    _head: ClassVar[HeadName] = "nmtune"

    def __init__(
        self,
        *,
        preset: Preset = "paper",
        learning_rate: float | None = 1e-3,
        weight_decay: float | None = 1e-4,
        epochs: int = 30,
        batch: int = 64,
        warmup_steps: int = 0,
        standardise: bool = False,
        dtype: DType = "float32",
        ratio: float = 4,
        layers: int = 1,
        batch_norm: bool | None = None,
        residual: bool | None = None,
        residual_init: float = 1.0,
        mse_weight: float | None = None,
        mse_norm: Preset | None = None,
        cov_weight: float | None = None,
        svd_weight: float | None = None,
        top_k: int | None = None,
        views: Literal["one", "pair"] | None = None,
        random_state: int = 0,
    ) -> None:
        super().__init__(
            preset=preset,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            epochs=epochs,
            batch=batch,
            warmup_steps=warmup_steps,
            standardise=standardise,
            dtype=dtype,
            ratio=ratio,
            layers=layers,
            batch_norm=batch_norm,
            residual=residual,
            residual_init=residual_init,
            random_state=random_state,
        )
        self.mse_weight = mse_weight
        self.mse_norm = mse_norm
        self.cov_weight = cov_weight
        self.svd_weight = svd_weight
        self.top_k = top_k
        self.views = views
