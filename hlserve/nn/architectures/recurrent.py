"""``lstm:128``, ``gru:64``, ``rnn:64`` and ``bilstm:64``: recurrent layers of these sizes.

Ids of words are looked up in an embedding first, of as many numbers as the first layer has units.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from hlserve.errors import ConfigError
from hlserve.nn.architectures.family import Draft, Family, Spec, sizes
from hlserve.nn.layer import Layer, Shape
from hlserve.nn.layers import GRU, LSTM, RNN, Embedding, Linear, Reshape

MakeLayer = Callable[[int, int, bool, bool], Layer]  # of input, hidden, both ways, only the last


def _lstm(inputs: int, hidden: int, both: bool, last: bool) -> Layer:
    return LSTM(inputs, hidden, bidirectional=both, last_only=last)


def _gru(inputs: int, hidden: int, both: bool, last: bool) -> Layer:
    return GRU(inputs, hidden, bidirectional=both, last_only=last)


def _rnn(inputs: int, hidden: int, both: bool, last: bool) -> Layer:
    return RNN(inputs, hidden, bidirectional=both, last_only=last)


def _row_shape(spec: Spec) -> Shape:
    """As the data's: sequences, or what ``_sequence_shape`` makes them of."""
    _sequence_shape(spec)
    return spec.input_shape


def _sequence_shape(spec: Spec) -> tuple[int, int]:
    """(time, features): the rows of a grey image from top to bottom, flat rows number by number.

    Raises:
        ConfigError: rows are neither these nor sequences.
    """
    if spec.n_ids is not None:
        return spec.input_shape[0], _sizes(spec)[0]
    match spec.input_shape:
        case (int(time), int(features)):
            return time, features
        case (1, int(height), int(width)):
            return height, width
        case (int(time),):
            return time, 1
    raise ConfigError(
        f"architecture {spec.text!r} expects rows of shape (time, features), (time,) or "
        f"(1, height, width), the rows have shape {spec.input_shape}"
    )


def _hidden(spec: Spec, draft: Draft, value: str, make: MakeLayer, both: bool) -> str:
    """Every layer hands all its states to the next; of the last one only the last state counts."""
    time, features = _sequence_shape(spec)
    if spec.n_ids is not None:
        value = draft.add(Embedding(spec.n_ids, features, 0), value)
    elif spec.input_shape != (time, features):
        value = draft.add(Reshape((time, features)), value)
    hidden = _sizes(spec)
    widths = [features, *(size * (1 + both) for size in hidden)]
    for position, (size, (inputs, _)) in enumerate(zip(hidden, pairwise(widths), strict=True), 1):
        layer = make(inputs, size, both, position == len(hidden))
        value = draft.add(layer, *draft.masked(value))
    return draft.add(Linear(widths[-1], spec.n_outputs), value)


def _sizes(spec: Spec) -> list[int]:
    expected = f"the sizes of the recurrent layers, as in {spec.kind}:64 or {spec.kind}:64,64"
    return sizes(spec, spec.arguments, of=expected)


def _family(kind: str, known: str, make: MakeLayer, *, both: bool = False) -> Family:
    return Family(kind, known, _row_shape, lambda s, d, v: _hidden(s, d, v, make, both), True)


RECURRENT = (
    _family("lstm", "lstm:128 (one number a layer)", _lstm),
    _family("gru", "gru:64", _gru),
    _family("rnn", "rnn:64", _rnn),
    _family("bilstm", "bilstm:64 (both ways)", _lstm, both=True),
    _family("bigru", "bigru:64", _gru, both=True),
    _family("birnn", "birnn:64", _rnn, both=True),
)
