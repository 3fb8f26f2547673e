"""Losses, a family a file; any callable of ``Loss``'s shape does as well."""

from hlserve.nn.losses.classification import CrossEntropy as CrossEntropy
from hlserve.nn.losses.classification import Focal as Focal
from hlserve.nn.losses.classification import class_weights as class_weights
from hlserve.nn.losses.loss import LABELS as LABELS
from hlserve.nn.losses.loss import WEIGHTS as WEIGHTS
from hlserve.nn.losses.loss import Loss as Loss
from hlserve.nn.losses.loss import Targets as Targets
from hlserve.nn.losses.loss import total_weight as total_weight
from hlserve.nn.losses.multilabel import BinaryCrossEntropy as BinaryCrossEntropy
from hlserve.nn.losses.regression import Huber as Huber
from hlserve.nn.losses.regression import MeanSquaredError as MeanSquaredError
from hlserve.nn.losses.regression import Quantile as Quantile
