"""The trainer: networks with hidden layers in NumPy.

Example:
    >>> import numpy as np
    >>> from hlserve.nn import AdamW, build, fit
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(400, 2)).astype(np.float32)
    >>> y = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
    >>> network = build("mlp:16", input_shape=(2,), n_outputs=2, task="classification")
    >>> history = fit(network, x, y, optimizer=AdamW(0.01), progress=False)
    >>> history.best.validation_metric > 0.9
    True
    >>> network.predict(x[:1])["probabilities"].shape
    (1, 2)
"""

from hlserve.nn.architectures import build as build
from hlserve.nn.architectures import build_for as build_for
from hlserve.nn.augmentation import Augment as Augment
from hlserve.nn.checkpoint import load as load
from hlserve.nn.checkpoint import save as save
from hlserve.nn.estimator import NetworkClassifier as NetworkClassifier
from hlserve.nn.estimator import NetworkRegressor as NetworkRegressor
from hlserve.nn.evaluation import Evaluation as Evaluation
from hlserve.nn.evaluation import evaluate as evaluate
from hlserve.nn.gradcheck import check_gradients as check_gradients
from hlserve.nn.history import EpochRecord as EpochRecord
from hlserve.nn.history import History as History
from hlserve.nn.layer import Layer as Layer
from hlserve.nn.losses import BinaryCrossEntropy as BinaryCrossEntropy
from hlserve.nn.losses import CrossEntropy as CrossEntropy
from hlserve.nn.losses import Focal as Focal
from hlserve.nn.losses import Huber as Huber
from hlserve.nn.losses import Loss as Loss
from hlserve.nn.losses import MeanSquaredError as MeanSquaredError
from hlserve.nn.losses import Quantile as Quantile
from hlserve.nn.losses import class_weights as class_weights
from hlserve.nn.network import Input as Input
from hlserve.nn.network import Network as Network
from hlserve.nn.network import Node as Node
from hlserve.nn.network import sequential as sequential
from hlserve.nn.optimizers import SGD as SGD
from hlserve.nn.optimizers import AdamW as AdamW
from hlserve.nn.optimizers import Optimizer as Optimizer
from hlserve.nn.optimizers import RMSprop as RMSprop
from hlserve.nn.optimizers import clip_norm as clip_norm
from hlserve.nn.param import Param as Param
from hlserve.nn.param import QParams as QParams
from hlserve.nn.schedules import Constant as Constant
from hlserve.nn.schedules import Cosine as Cosine
from hlserve.nn.schedules import OneCycle as OneCycle
from hlserve.nn.schedules import Plateau as Plateau
from hlserve.nn.schedules import Schedule as Schedule
from hlserve.nn.schedules import Step as Step
from hlserve.nn.trainer import fit as fit
from hlserve.nn.training_settings import EarlyStopping as EarlyStopping
from hlserve.nn.training_settings import Gradients as Gradients
from hlserve.nn.training_settings import StateFile as StateFile
from hlserve.nn.training_settings import StopTraining as StopTraining
from hlserve.nn.training_settings import TrainingDivergedError as TrainingDivergedError
from hlserve.nn.training_settings import Weighting as Weighting
from hlserve.nn.transformer import encoder_block as encoder_block
from hlserve.nn.transformer import transformer_encoder as transformer_encoder
