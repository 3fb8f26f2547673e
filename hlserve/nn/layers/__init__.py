"""The layers, one a file."""

from hlserve.nn.layers.linear import Linear as Linear

LAYERS = (Linear,)
