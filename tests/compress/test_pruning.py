"""Structured pruning: what goes is what does not matter, through every re-indexing layer."""

import numpy as np
import pytest

from compress.pruning import PruneChannels
from compress.pruning.channels import removable_widths, rounded_width
from compress.technique import Data
from hlserve.datasets import Rows
from hlserve.errors import CompressionError, ConfigError


def _silence(network, node, units):
    for param in network.node(node).layer.params().values():
        param.value[units] = 0


@pytest.mark.parametrize("importance", ["l1", "l2", "taylor"])
def test_pruning_silent_units_leaves_the_answers_equal(small_lenet, image_rows, importance):
    network = small_lenet.copy()
    conv_1, conv_2, linear_1, linear_2 = [n.name for n in network.nodes if n.layer.params()][:4]
    _silence(network, conv_1, [0, 4])
    _silence(network, conv_2, [1, 2, 3, 15])
    _silence(network, linear_1, slice(10, 50))
    _silence(network, linear_2, slice(0, 4))
    technique = PruneChannels(widths=(4, 12, 80, 80), importance=importance)
    pruned = technique.apply(network, Data(image_rows)).network
    assert pruned.n_parameters < network.n_parameters
    assert removable_widths(pruned) == [4, 12, 80, 80]
    x = image_rows.x[:20]
    np.testing.assert_allclose(
        pruned.predict(x)["probabilities"], network.predict(x)["probabilities"], atol=1e-6
    )


def test_flattened_channels_lose_all_their_features(small_lenet, image_rows):
    pruned = PruneChannels(0.5, importance="l1").apply(small_lenet, Data(image_rows)).network
    shapes = [p.value.shape for name, p in pruned.params().items() if name.endswith("weight")]
    assert shapes == [(6, 1, 5, 5), (8, 6, 5, 5), (64, 8), (40, 64), (3, 40)]


def test_widths_round_to_multiples_and_never_grow():
    assert rounded_width(300, 0.5, 8) == 152
    assert rounded_width(100, 0.25, 16) == 32
    assert rounded_width(6, 0.5, 8) == 6
    assert rounded_width(20, 0.01, 8) == 8
    assert rounded_width(5, 0.0001, 1) == 1


def test_taylor_keeps_what_the_labels_need(trained_mlp, mlp_rows):
    data = Data(mlp_rows)

    def accuracy(importance):
        technique = PruneChannels(0.75, importance=importance, round_to=1)
        network = technique.apply(trained_mlp, data).network
        answers = network.predict(mlp_rows.x)["probabilities"]
        return np.mean(answers.argmax(axis=1) == mlp_rows.y)

    assert accuracy("taylor") > 0.5  # four classes: chance is 0.25
    assert accuracy("taylor") >= accuracy("l1") - 0.1


def test_unfit_settings_are_refused(trained_mlp, mlp_data):
    with pytest.raises(ConfigError, match="ratio is 1"):
        PruneChannels(1.0)
    with pytest.raises(ConfigError, match="at least 1"):
        PruneChannels(widths=(0, 4))
    with pytest.raises(CompressionError, match=r"groups of \[64, 32\]"):
        PruneChannels(widths=(64, 33)).apply(trained_mlp, mlp_data)


def test_unlabelled_rows_prune_by_weights(trained_mlp, mlp_rows):
    data = Data(Rows(mlp_rows.inputs))
    network = PruneChannels(0.5, importance="l1").apply(trained_mlp, data).network
    assert removable_widths(network) == [32, 16]
