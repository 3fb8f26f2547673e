"""The layers, one family a file; LAYERS lists every class that a network may hold."""

from hlserve.nn.layers.columns import Impute as Impute
from hlserve.nn.layers.columns import OneHot as OneHot
from hlserve.nn.layers.conv2d import Conv2d as Conv2d
from hlserve.nn.layers.dropout import Dropout as Dropout
from hlserve.nn.layers.gru import GRU as GRU
from hlserve.nn.layers.linear import Linear as Linear
from hlserve.nn.layers.lstm import LSTM as LSTM
from hlserve.nn.layers.max_pool2d import MaxPool2d as MaxPool2d
from hlserve.nn.layers.padding_mask import PaddingMask as PaddingMask
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
    Conv2d,
    Dropout,
    Flatten,
    GRU,
    Impute,
    LSTM,
    Linear,
    MaxPool2d,
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
