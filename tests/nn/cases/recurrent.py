"""Recurrent layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hlserve.nn.layer import Layer
from hlserve.nn.layers import GRU, LSTM, RNN, PaddingMask
from tests.nn.cases.case import Case, ids, normal, prefix_mask

TIME, FEATURES, HIDDEN = 5, 3, 4
MASKED = {"shapes": ((TIME, FEATURES), (TIME,)), "makers": (normal, prefix_mask)}


def cases_of(name: str, make: Callable[..., Layer]) -> tuple[Case, ...]:
    """All and last states, of one direction and both, without and with a mask."""
    found = []
    for both in (False, True):
        for last in (False, True):
            words = [name, *["both ways"] * both, *["last"] * last]
            options: dict[str, Any] = {"bidirectional": both, "last_only": last}
            build = _builder(make, options)
            found.append(Case(" ".join(words), build, ((TIME, FEATURES),)))
            found.append(Case(" ".join([*words, "masked"]), build, **MASKED))  # type: ignore[arg-type]
    found.append(Case(f"{name} of one step", _builder(make, {}), ((1, FEATURES),)))
    return tuple(found)


def _builder(make: Callable[..., Layer], options: dict[str, Any]) -> Callable[[], Layer]:
    return lambda: make(FEATURES, HIDDEN, **options)


def relu(*sizes: int, **options: Any) -> RNN:
    return RNN(*sizes, activation="relu", **options)


CASES = (
    *cases_of("lstm", LSTM),
    *cases_of("gru", GRU),
    *cases_of("rnn", RNN),
    *cases_of("rnn relu", relu),
    Case("padding mask", lambda: PaddingMask(), ((TIME,),), (ids(2),)),
    Case("padding anywhere", lambda: PaddingMask(1, is_prefix=False), ((TIME,),), (ids(2),)),
    Case("padding mask of one step", lambda: PaddingMask(3), ((1,),), (ids(5),)),
)
