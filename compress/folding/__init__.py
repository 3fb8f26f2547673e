"""Folding: arithmetic that a neighbouring layer's weights can do as well."""

from compress.folding.batch_norm import FoldBatchNorm as FoldBatchNorm
from compress.folding.scale import FoldScale as FoldScale
