"""The layers, one family a file; LAYERS lists every class that a network may hold."""

from hlserve.nn.layers.affine import Affine as Affine
from hlserve.nn.layers.arg_max import ArgMax as ArgMax
from hlserve.nn.layers.average_pool import AvgPool2d as AvgPool2d
from hlserve.nn.layers.average_pool import GlobalAvgPool as GlobalAvgPool
from hlserve.nn.layers.batch_norm import BatchNorm as BatchNorm
from hlserve.nn.layers.clip import Clip as Clip
from hlserve.nn.layers.columns import Impute as Impute
from hlserve.nn.layers.columns import OneHot as OneHot
from hlserve.nn.layers.conv1d import Conv1d as Conv1d
from hlserve.nn.layers.conv2d import Conv2d as Conv2d
from hlserve.nn.layers.conv_transpose import ConvTranspose2d as ConvTranspose2d
from hlserve.nn.layers.dropout import Dropout as Dropout
from hlserve.nn.layers.elu import ELU as ELU
from hlserve.nn.layers.embedding import Embedding as Embedding
from hlserve.nn.layers.gelu import GELU as GELU
from hlserve.nn.layers.group_norm import GroupNorm as GroupNorm
from hlserve.nn.layers.gru import GRU as GRU
from hlserve.nn.layers.hard_sigmoid import HardSigmoid as HardSigmoid
from hlserve.nn.layers.hard_swish import HardSwish as HardSwish
from hlserve.nn.layers.layer_norm import LayerNorm as LayerNorm
from hlserve.nn.layers.leaky_relu import LeakyReLU as LeakyReLU
from hlserve.nn.layers.leaky_relu import PReLU as PReLU
from hlserve.nn.layers.linear import Linear as Linear
from hlserve.nn.layers.log_softmax import LogSoftmax as LogSoftmax
from hlserve.nn.layers.lstm import LSTM as LSTM
from hlserve.nn.layers.max_pool2d import MaxPool2d as MaxPool2d
from hlserve.nn.layers.merge import Add as Add
from hlserve.nn.layers.merge import Concat as Concat
from hlserve.nn.layers.merge import Multiply as Multiply
from hlserve.nn.layers.multi_head_attention import MultiHeadAttention as MultiHeadAttention
from hlserve.nn.layers.over_time import MaxOverTime as MaxOverTime
from hlserve.nn.layers.over_time import MeanOverTime as MeanOverTime
from hlserve.nn.layers.pad import Pad as Pad
from hlserve.nn.layers.padding_mask import PaddingMask as PaddingMask
from hlserve.nn.layers.pool1d import AvgPool1d as AvgPool1d
from hlserve.nn.layers.pool1d import MaxPool1d as MaxPool1d
from hlserve.nn.layers.positions import LearnedPositions as LearnedPositions
from hlserve.nn.layers.positions import PositionalEncoding as PositionalEncoding
from hlserve.nn.layers.relu import ReLU as ReLU
from hlserve.nn.layers.reshape import Flatten as Flatten
from hlserve.nn.layers.reshape import Reshape as Reshape
from hlserve.nn.layers.rnn import RNN as RNN
from hlserve.nn.layers.sigmoid import Sigmoid as Sigmoid
from hlserve.nn.layers.silu import SiLU as SiLU
from hlserve.nn.layers.slice import Slice as Slice
from hlserve.nn.layers.softmax import Softmax as Softmax
from hlserve.nn.layers.softplus import Softplus as Softplus
from hlserve.nn.layers.tanh import Tanh as Tanh
from hlserve.nn.layers.transpose import Transpose as Transpose
from hlserve.nn.preprocessing import Scale as Scale
from hlserve.nn.preprocessing import Standardize as Standardize

LAYERS = (
    Add,
    Affine,
    ArgMax,
    AvgPool1d,
    AvgPool2d,
    BatchNorm,
    Clip,
    Concat,
    Conv1d,
    Conv2d,
    ConvTranspose2d,
    Dropout,
    ELU,
    Embedding,
    Flatten,
    GELU,
    GRU,
    GlobalAvgPool,
    GroupNorm,
    HardSigmoid,
    HardSwish,
    Impute,
    LSTM,
    LayerNorm,
    LeakyReLU,
    LearnedPositions,
    Linear,
    LogSoftmax,
    MaxOverTime,
    MaxPool1d,
    MaxPool2d,
    MeanOverTime,
    MultiHeadAttention,
    Multiply,
    OneHot,
    PReLU,
    Pad,
    PaddingMask,
    PositionalEncoding,
    RNN,
    ReLU,
    Reshape,
    Scale,
    SiLU,
    Sigmoid,
    Slice,
    Softmax,
    Softplus,
    Standardize,
    Tanh,
    Transpose,
)
