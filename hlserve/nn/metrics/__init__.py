"""How good predictions are: pure functions of arrays whose rows come first, a family a file."""

from hlserve.nn.metrics.decisions import accuracy as accuracy
from hlserve.nn.metrics.decisions import confusion_matrix as confusion_matrix
from hlserve.nn.metrics.decisions import f1 as f1
from hlserve.nn.metrics.decisions import label_accuracy as label_accuracy
from hlserve.nn.metrics.decisions import wilson_interval as wilson_interval
from hlserve.nn.metrics.probabilities import brier as brier
from hlserve.nn.metrics.probabilities import (
    expected_calibration_error as expected_calibration_error,
)
from hlserve.nn.metrics.probabilities import log_loss as log_loss
from hlserve.nn.metrics.ranking import average_precision as average_precision
from hlserve.nn.metrics.ranking import roc_auc as roc_auc
from hlserve.nn.metrics.regression import mean_absolute_error as mean_absolute_error
from hlserve.nn.metrics.regression import mean_squared_error as mean_squared_error
from hlserve.nn.metrics.regression import r2 as r2
