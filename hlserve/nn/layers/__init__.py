"""The layers, one family a file; LAYERS lists every class that a network may hold."""

from hlserve.nn.layers.average_pool import AvgPool2d as AvgPool2d
from hlserve.nn.layers.average_pool import GlobalAvgPool as GlobalAvgPool
from hlserve.nn.layers.batch_norm import BatchNorm as BatchNorm
from hlserve.nn.layers.columns import Impute as Impute
from hlserve.nn.layers.columns import OneHot as OneHot
from hlserve.nn.layers.conv1d import Conv1d as Conv1d
from hlserve.nn.layers.conv2d import Conv2d as Conv2d
from hlserve.nn.layers.dropout import Dropout as Dropout
from hlserve.nn.layers.gru import GRU as GRU
from hlserve.nn.layers.linear import Linear as Linear
from hlserve.nn.layers.lstm import LSTM as LSTM
from hlserve.nn.layers.max_pool2d import MaxPool2d as MaxPool2d
from hlserve.nn.layers.merge import Add as Add
from hlserve.nn.layers.merge import Concat as Concat
from hlserve.nn.layers.merge import Multiply as Multiply
from hlserve.nn.layers.padding_mask import PaddingMask as PaddingMask
from hlserve.nn.layers.pool1d import AvgPool1d as AvgPool1d
from hlserve.nn.layers.pool1d import MaxPool1d as MaxPool1d
from hlserve.nn.layers.relu import ReLU as ReLU
from hlserve.nn.layers.reshape import Flatten as Flatten
from hlserve.nn.layers.reshape import Reshape as Reshape
from hlserve.nn.layers.rnn import RNN as RNN
from hlserve.nn.layers.sigmoid import Sigmoid as Sigmoid
from hlserve.nn.layers.softmax import Softmax as Softmax
from hlserve.nn.layers.tanh import Tanh as Tanh
from hlserve.nn.preprocessing import Scale as Scale
from hlserve.nn.preprocessing import Standardize as Standardize

LAYERS = (
    Add,
    AvgPool1d,
    AvgPool2d,
    BatchNorm,
    Concat,
    Conv1d,
    Conv2d,
    Dropout,
    Flatten,
    GRU,
    GlobalAvgPool,
    Impute,
    LSTM,
    Linear,
    MaxPool1d,
    MaxPool2d,
    Multiply,
    OneHot,
    PaddingMask,
    RNN,
    ReLU,
    Reshape,
    Scale,
    Sigmoid,
    Softmax,
    Standardize,
    Tanh,
)
