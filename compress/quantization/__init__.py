"""Integers in place of floats."""

from compress.quantization.static import QuantizeStatic as QuantizeStatic
