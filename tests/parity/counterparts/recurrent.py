"""Recurrent layers: PyTorch's own, with its parameters made from ones in ONNX's order."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from hlserve.nn.layers import GRU, LSTM, RNN

# Where PyTorch's n-th gate stands in ONNX's order: i f g o among i o f g; r z n among z r n.
GATES = {nn.LSTM: (0, 2, 3, 1), nn.GRU: (1, 0, 2), nn.RNN: (0,)}


class Recurrent(nn.Module):
    """A module of PyTorch over (batch, time, input_size), and perhaps a prefix mask.

    Its parameters are those of our layer; in every pass PyTorch's are gathered from them, their
    second bias zero but for a GRU's candidate.
    """

    def __init__(self, kind: type[Any], layer: Any, **options: Any) -> None:
        super().__init__()
        self.last_only = layer.last_only
        module = kind(
            layer.input_size,
            layer.hidden_size,
            batch_first=True,
            bidirectional=layer.bidirectional,
            **options,
        )
        self.hidden = (module,)  # in a tuple its parameters are not listed among ours
        for name, param in layer.params().items():
            self.register_parameter(name, nn.Parameter(torch.zeros(param.value.shape)))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        (module,) = self.hidden
        lengths = torch.full((len(x),), x.shape[1]) if mask is None else mask.sum(1)
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        states, last = functional_call(module, self.theirs(type(module)), (packed,))
        if not self.last_only:
            padded, _ = pad_packed_sequence(states, batch_first=True, total_length=x.shape[1])
            return padded
        state = last[0] if isinstance(last, tuple) else last  # (directions, batch, hidden)
        return state.transpose(0, 1).flatten(1)

    def theirs(self, kind: type[Any]) -> dict[str, torch.Tensor]:
        named: dict[str, torch.Tensor] = {}
        for direction in range(len(self.weight)):
            suffix = "l0_reverse" if direction else "l0"
            weight, recurrent_weight, bias = (
                torch.cat([array[direction].chunk(len(GATES[kind]))[i] for i in GATES[kind]])
                for array in (self.weight, self.recurrent_weight, self.bias)
            )
            second = torch.zeros_like(bias)
            if kind is nn.GRU:
                candidate = self.recurrent_bias[direction]
                second = torch.cat([second[: -len(candidate)], candidate])
            named |= {
                f"weight_ih_{suffix}": weight,
                f"weight_hh_{suffix}": recurrent_weight,
                f"bias_ih_{suffix}": bias,
                f"bias_hh_{suffix}": second,
            }
        return named


COUNTERPARTS: dict[type, Any] = {
    GRU: lambda layer, shapes: Recurrent(nn.GRU, layer),
    LSTM: lambda layer, shapes: Recurrent(nn.LSTM, layer),
    RNN: lambda layer, shapes: Recurrent(nn.RNN, layer, nonlinearity=layer.activation),
}
