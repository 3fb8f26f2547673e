"""Networks by name: what a spec such as ``mlp:300,100`` stands for, one family a file."""

from hlserve.nn.architectures.building import KNOWN as KNOWN
from hlserve.nn.architectures.building import build as build
from hlserve.nn.architectures.building import build_for as build_for
