"""Gradients against central differences, along random directions.

One random direction in the space of a parameter and one in the space of the output make both
sides a single number, v . J u, however large the arrays are: the backward pass gives it from v,
two forward passes from u (as autograd's ``check_vjp`` does).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from hlserve.nn.network import Network, NetworkBackward
from hlserve.nn.param import Array

_STEP = 1e-6  # near the cube root of float64's rounding, where both errors are about 1e-10
_RTOL = 1e-5  # a factor of 1.001 is a hundred times that
_ROUNDING = 100 * float(np.finfo(np.float64).eps)


def check_gradients(
    network: Network,
    rows: Array | Mapping[str, Array],
    *,
    rng: np.random.Generator,
    training: bool = True,
    until: str | None = None,
) -> None:
    """Compares every parameter's and every float input's gradient with a central difference.

    Runs a float64 copy; the network keeps its values and gradients. Each pass draws the same
    random masks, so a Dropout can be checked as in training. Where a layer has a kink (ReLU,
    MaxPool2d) values closer to it than 1e-6 spoil the difference: rare, and gone with another
    ``rng``.

    Args:
        network: what to check.
        rows: (batch, ...) for a single input, else one array an input, by name.
        rng: draws the directions and the seed of the masks.
        training: whether layers behave as in training.
        until: the node whose activation is differentiated; the only output's by default.

    Raises:
        AssertionError: a gradient is wrong; names the parameter or input, its analytic and its
            numeric derivative. Not a HlserveError: the code is wrong, not its use.
    """
    passes = _Passes(network, rows, rng, training, until)
    y = passes.forward()
    v = rng.standard_normal(y.shape)
    scale = float(np.sum(np.abs(v * y)))
    for name, value, gradient in passes.gradients(v):
        u = rng.standard_normal(value.shape)
        analytic = float(np.sum(gradient * u))
        numeric = passes.central_difference(value, u, v)
        allowed = _RTOL * max(abs(analytic), abs(numeric)) + _ROUNDING * scale / _STEP
        if not abs(analytic - numeric) <= allowed:  # NaN fails too
            raise AssertionError(
                f"wrong gradient of {name!r}: along a random direction backward says "
                f"{analytic:.9g}, a central difference {numeric:.9g} "
                f"(ratio {analytic / numeric if numeric else np.nan:.6g}, allowed difference "
                f"{allowed:.1e})"
            )


class _Passes:
    """The same float64 pass again and again over values that may be nudged in place."""

    def __init__(
        self,
        network: Network,
        rows: Array | Mapping[str, Array],
        rng: np.random.Generator,
        training: bool,
        until: str | None,
    ) -> None:
        self._network = network.astype(np.float64)
        self._training, self._until = training, until
        floats = {i.name for i in network.inputs if i.dtype == "float32"}
        self._rows = {
            name: np.array(array, np.float64 if name in floats else None)
            for name, array in self._network.named_rows(rows).items()
        }
        self._floats = floats
        self._seed = int(rng.integers(2**32))

    def forward(self) -> Array:
        """The output, as an array of its own."""
        return self._run()[0].copy()

    def gradients(self, v: Array) -> Iterator[tuple[str, Array, Array]]:
        """Name, value and analytic gradient of v . y for every parameter and float input."""
        self._network.grad.fill(0)
        _, backward = self._run()
        to_inputs = backward(v.copy(), to_inputs=bool(self._floats))
        for name, param in self._network.params().items():
            if param.is_trained:
                yield name, param.value, param.grad
        for name in sorted(self._floats):
            value = self._rows[name]
            yield name, value, to_inputs.get(name, np.zeros_like(value))

    def central_difference(self, value: Array, u: Array, v: Array) -> float:
        """d(v . y) / d(value) along u; ``value`` is as before when it returns."""
        before = value.copy()
        value += _STEP * u
        above = self.forward()
        value[...] = before - _STEP * u
        below = self.forward()
        value[...] = before
        return float(np.sum(v * (above - below)) / (2 * _STEP))

    def _run(self) -> tuple[Array, NetworkBackward]:
        workspace = self._network.workspace(np.random.default_rng(self._seed))
        return self._network.forward(
            self._rows, training=self._training, workspace=workspace, until=self._until
        )
