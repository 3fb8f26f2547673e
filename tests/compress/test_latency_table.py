"""Latencies predicted from those of networks that are thinner in one group."""

import numpy as np
import pytest

from compress.allocation import allocate
from compress.export import to_onnx
from compress.latency_table import LatencyTable, measure_table
from compress.pruning import costs, pruning_losses
from compress.quantization import QuantizeStatic
from compress.technique import Data
from hlserve.errors import CompressionError

GRID = ((64, 32, 16), (32, 16, 8))


def made_table(network, seconds):
    """A table as if networks took so long as a function of their multiply-accumulates says."""
    cost = costs(network)

    def taken(widths):
        return np.array([seconds(cost.macs(widths)), 3 * seconds(cost.macs(widths))])

    whole = taken((64, 32))
    saved = (
        np.array([whole - taken((w, 32)) for w in GRID[0]]),
        np.array([whole - taken((64, w)) for w in GRID[1]]),
    )
    return LatencyTable((1, 32), GRID, whole, taken((16, 8)), saved, cost)


def test_time_that_goes_with_products_is_predicted_exactly(trained_mlp):
    def seconds(macs):
        return 5e-6 + 1e-9 * macs

    table = made_table(trained_mlp, seconds)
    cost = costs(trained_mlp)
    for widths in [(64, 32), (32, 16), (16, 32), (64, 8), (16, 8), (48, 12)]:
        expected = seconds(cost.macs(widths))
        np.testing.assert_allclose(table.predict(widths), [expected, 3 * expected], rtol=1e-12)
        assert table.relative(widths) == pytest.approx(expected / seconds(cost.macs((64, 32))))
    assert table.predict([(64, 32), (32, 16)]).shape == (2, 2)


def test_nothing_is_taken_to_be_faster_than_the_narrowest(trained_mlp):
    table = made_table(trained_mlp, lambda macs: max(4e-6, 1e-9 * macs))
    every = np.array([(a, b) for a in GRID[0] for b in GRID[1]])
    times = table.predict(every)
    assert np.all(times >= table.narrowest_s)
    assert np.all(times <= table.whole_s)
    assert table.relative((64, 32)) == 1


@pytest.mark.parametrize("in_integers", [False, True])
def test_a_measured_table_gives_what_allocation_needs(trained_mlp, mlp_rows, in_integers):
    data = Data(mlp_rows.take(slice(0, 64)))

    def ending(network):
        if in_integers:
            network = QuantizeStatic(rows=64).apply(network, data).network
        return to_onnx(network)

    feeds = {"input": mlp_rows.x[:8].astype(np.float32)}
    table = measure_table(trained_mlp, GRID, feeds, (1, 4), ending=ending, budget_s=0.5)
    assert table.grid == GRID
    assert table.whole_s.shape == table.narrowest_s.shape == (2,)
    assert [saved.shape for saved in table.saved_s] == [(3, 2), (3, 2)]
    assert all(np.all(saved[0] == 0) for saved in table.saved_s)
    assert np.all(table.predict((64, 32)) == table.whole_s)
    losses = pruning_losses(trained_mlp, Data(mlp_rows), GRID)
    widths = allocate(losses, table.relative, 1.0)
    assert table.relative(widths) <= 1


def test_a_small_budget_leaves_out_the_widths_between(trained_mlp, mlp_rows):
    feeds = {"input": mlp_rows.x[:4].astype(np.float32)}
    table = measure_table(trained_mlp, GRID, feeds, (1,), budget_s=0.0)
    assert table.grid == ((64, 16), (32, 8))


def test_a_grid_that_does_not_fit_is_refused(trained_mlp, mlp_rows):
    feeds = {"input": mlp_rows.x[:4].astype(np.float32)}
    with pytest.raises(CompressionError, match="has no width"):
        measure_table(trained_mlp, ((64,), ()), feeds, (1,))
    with pytest.raises(CompressionError, match=r"groups of \[64, 32\]"):
        measure_table(trained_mlp, ((64, 8),), feeds, (1,))
