"""Networks in the shape of scikit-learn's estimators, for pipelines and searches that exist.

scikit-learn is not imported and need not be installed: its conventions are followed by name.
Where one of its classes must be handed over (tags, the error of an unfitted estimator), it is
taken from the scikit-learn that the caller has loaded already.

Example:
    >>> import numpy as np
    >>> from hlserve.nn.estimator import NetworkClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(400, 2))
    >>> y = np.where(X[:, 0] * X[:, 1] > 0, "same", "other")
    >>> classifier = NetworkClassifier("mlp:16", learning_rate=0.01).fit(X, y)
    >>> classifier.classes_.tolist()
    ['other', 'same']
    >>> classifier.score(X, y) > 0.9
    True
    >>> classifier.network_.n_parameters  # to save, compress or export
    82
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Self, final

import numpy as np
from numpy.typing import ArrayLike

from hlserve.errors import ConfigError, DataError
from hlserve.nn.architectures import build_for
from hlserve.nn.estimator_conventions import (
    checked_rows,
    checked_targets,
    checked_weights,
    loaded,
    not_fitted,
    remember_names,
    require_same_names,
    warn_of_column,
)
from hlserve.nn.history import History
from hlserve.nn.losses import LABELS, WEIGHTS, Targets, class_weights
from hlserve.nn.metrics import r2
from hlserve.nn.network import Network, Task
from hlserve.nn.optimizers import AdamW
from hlserve.nn.param import Array
from hlserve.nn.trainer import LEARNING_RATE, EarlyStopping, fit

RandomState = int | np.random.RandomState | None
_SEEDS = 2**31 - 1


class _Estimator(ABC):
    """What both estimators are; their dataclass fields are scikit-learn's parameters.

    Attributes:
        network_: the trained network.
        history_: of its training.
        n_features_in_: the length of a row's first axis.
        feature_names_in_: the names of the columns, where rows came with names.
    """

    task: ClassVar[Task]

    architecture: str
    epochs: int | None
    batch_size: int | None
    learning_rate: float
    weight_decay: float
    validation_fraction: float | None
    patience: int | None
    random_state: RandomState
    network_: Network
    history_: History
    n_features_in_: int

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:  # noqa: N803
        """Trains a fresh network.

        Args:
            X: (rows, columns), or (rows, channels, height, width); anything that NumPy reads.
            y: a label, or a number or several, for each row.
            sample_weight: (rows,), how much each row counts in the loss.

        Raises:
            DataError: rows or targets cannot be trained on.
            ConfigError: a parameter makes no sense.
        """
        rows = checked_rows(X, self)
        if y is None:
            raise DataError(f"{self._name} requires y to be passed, but the target y is None")
        remember_names(self, X)
        self.n_features_in_ = rows.shape[1]
        targets = self._encode(checked_targets(y, len(rows)))
        _require_enough_rows(len(rows))
        seed = _seed_of(self.random_state)
        self.network_ = build_for(
            self.architecture,
            rows,
            targets,
            task=self.task,
            class_labels=self._class_labels(),
            seed=seed,
        )
        self.history_ = fit(
            self.network_,
            rows,
            _weighted(targets, self._weights(targets, checked_weights(sample_weight, len(rows)))),
            validation=self.validation_fraction or None,
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer=AdamW(self.learning_rate, weight_decay=self.weight_decay),
            early_stopping=None if self.patience is None else EarlyStopping(self.patience),
            seed=seed,
            progress=False,
        )
        return self

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name; ``deep`` changes nothing, none of them is an estimator."""
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]  # both are dataclasses

    def set_params(self, **params: Any) -> Self:
        """Sets parameters; what is trained already stays until the next ``fit``.

        Raises:
            ConfigError: there is no parameter of that name.
        """
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise ConfigError(
                    f"{self._name} has no parameter {name!r}; there are {', '.join(known)}"
                )
            setattr(self, name, value)
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes a copy's or a pickle's state, in which parameters are no views any more."""
        self.__dict__.update(state)
        if "network_" in state:
            self.network_ = state["network_"].copy()

    @abstractmethod
    def __sklearn_tags__(self) -> Any:
        """What scikit-learn asks an estimator about itself."""

    @abstractmethod
    def _encode(self, y: Array) -> Array:
        """The targets as the trainer takes them; remembers how to turn answers back."""

    @abstractmethod
    def _class_labels(self) -> list[str] | None:
        """What the classes are called."""

    @abstractmethod
    def _weights(self, targets: Array, sample_weight: Array | None) -> Array | None:
        """What each row counts, (rows,); None where all count alike."""

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _answers(self, X: Any) -> Array:  # noqa: N803 - scikit-learn's name
        """The network's only output for rows like those of ``fit``, (rows, outputs)."""
        if not hasattr(self, "network_"):
            raise not_fitted(self._name)
        require_same_names(self, X)
        rows = checked_rows(X, self)
        if rows.shape[1] != self.n_features_in_:
            raise DataError(
                f"X has {rows.shape[1]} features, but {self._name} is expecting "
                f"{self.n_features_in_} features as input"
            )
        (answers,) = self.network_.predict(rows).values()
        return answers


@final
@dataclass(eq=False)
class NetworkClassifier(_Estimator):
    """A classifier that is a network with hidden layers.

    Columns are standardized, uint8 rows taken as pixels; that becomes part of the network.

    Attributes:
        architecture: a spec, see ``architectures.build``.
        epochs, batch_size: by default what ``fit`` of the trainer chooses for so many rows.
        learning_rate, weight_decay: AdamW's.
        validation_fraction: of the rows, set apart to choose the best epoch; 0 or None for none.
        patience: epochs without a better one after which training stops; None runs all.
        class_weight: what the rows of a class count, by label; "balanced" for classes alike.
        random_state: a seed, scikit-learn's generator, or None for another run each time.
        classes_: the labels, sorted; the columns of ``predict_proba``.
    """

    task: ClassVar[Task] = "classification"

    architecture: str = "mlp:100"
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float = LEARNING_RATE
    weight_decay: float = 0.01
    validation_fraction: float | None = 0.1
    patience: int | None = None
    class_weight: Mapping[Any, float] | Literal["balanced"] | None = None
    random_state: RandomState = 0

    def predict(self, X: Any) -> Array:  # noqa: N803 - scikit-learn's name
        """The likeliest label of each row, (rows,), of the type of ``y``."""
        probabilities = self._answers(X)
        labels: Array = self.classes_[probabilities.argmax(axis=1)]
        return labels

    def predict_proba(self, X: Any) -> Array:  # noqa: N803 - scikit-learn's name
        """The probability of each class, (rows, classes), columns as in ``classes_``."""
        return self._answers(X)

    def score(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> float:  # noqa: N803
        """Accuracy, weighted where weights are given."""
        is_right = self.predict(X) == np.asarray(y).reshape(-1)
        return float(np.average(is_right, weights=checked_weights(sample_weight, len(is_right))))

    def __sklearn_tags__(self) -> Any:
        """See the base."""
        utils = loaded("sklearn.utils")
        return utils.Tags(
            estimator_type="classifier",
            target_tags=utils.TargetTags(required=True),
            classifier_tags=utils.ClassifierTags(),
            input_tags=utils.InputTags(three_d_array=True),
        )

    def _encode(self, y: Array) -> Array:
        if y.ndim == 2 and y.shape[1] == 1:
            warn_of_column()
            y = y[:, 0]
        if y.ndim != 1:
            raise DataError(f"y has shape {y.shape}, expected one label a row, (rows,)")
        if y.dtype.kind == "f" and np.any(y != np.round(y)):
            raise DataError("Unknown label type: continuous; y must hold classes, not numbers")
        self.classes_, ids = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise DataError(f"y has only one class, {self.classes_[0]!r}: nothing to tell apart")
        return ids.astype(np.int64)

    def _class_labels(self) -> list[str]:
        return [str(label) for label in self.classes_]

    def _weights(self, targets: Array, sample_weight: Array | None) -> Array | None:
        if self.class_weight is None:
            return sample_weight
        if isinstance(self.class_weight, str):
            if self.class_weight != "balanced":
                raise ConfigError(
                    f"class_weight is {self.class_weight!r}, expected 'balanced', or weights"
                )
            by_class = class_weights(targets, len(self.classes_))
        else:
            by_class = _by_class(self.class_weight, self.classes_.tolist())
        weights: Array = by_class[targets]
        return weights if sample_weight is None else weights * sample_weight


@final
@dataclass(eq=False)
class NetworkRegressor(_Estimator):
    """A regressor that is a network with hidden layers, for one number or several.

    Attributes: those of ``NetworkClassifier``, without the classes.
    """

    task: ClassVar[Task] = "regression"

    architecture: str = "mlp:100"
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float = LEARNING_RATE
    weight_decay: float = 0.01
    validation_fraction: float | None = 0.1
    patience: int | None = None
    random_state: RandomState = 0

    def predict(self, X: Any) -> Array:  # noqa: N803 - scikit-learn's name
        """The numbers of each row in the targets' units, of the shape that ``y`` had, float64."""
        answers = self._answers(X).astype(np.float64)
        return answers.reshape(len(answers), *self._target_shape)

    def score(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> float:  # noqa: N803
        """R2, the share of the variance that is explained; outputs are averaged alike."""
        answers = self.predict(X)
        wanted = np.asarray(y, np.float64).reshape(answers.shape)
        return r2(answers, wanted, checked_weights(sample_weight, len(answers)))

    def __sklearn_tags__(self) -> Any:
        """See the base."""
        utils = loaded("sklearn.utils")
        return utils.Tags(
            estimator_type="regressor",
            target_tags=utils.TargetTags(required=True, multi_output=True),
            regressor_tags=utils.RegressorTags(),
            input_tags=utils.InputTags(three_d_array=True),
        )

    def _encode(self, y: Array) -> Array:
        try:
            numbers = y.astype(np.float32)
        except (TypeError, ValueError) as error:
            raise DataError(f"y holds {y.dtype}, expected numbers") from error
        self._target_shape = y.shape[1:]
        return numbers

    def _class_labels(self) -> None:
        return None

    def _weights(self, targets: Array, sample_weight: Array | None) -> Array | None:
        return sample_weight


# ----- below


def _weighted(targets: Array, weights: Array | None) -> Targets:
    return targets if weights is None else {LABELS: targets, WEIGHTS: weights}


def _by_class(asked: Mapping[Any, float], classes: list[Any]) -> Array:
    """The weight of every class, 1 where none is named.

    Labels that no row has are refused as scikit-learn does it: where a class has no weight, which
    may be what was meant. Else they may be those of a class that is not among a fold's rows.
    """
    unknown = [label for label in asked if label not in classes]
    missing = [label for label in classes if label not in asked]
    if unknown and missing:
        raise ConfigError(
            f"class_weight names {unknown}, which y does not hold, and not {missing}; expected "
            f"labels among {classes}, of their type"
        )
    return np.array([asked.get(label, 1.0) for label in classes])


def _require_enough_rows(n_rows: int) -> None:
    if n_rows < 2:
        raise DataError(f"{n_rows} sample: expected 2 rows or more to learn from")


def _seed_of(random_state: RandomState) -> int:
    if random_state is None:
        return int(np.random.default_rng().integers(_SEEDS))
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(_SEEDS))
    return int(random_state)
