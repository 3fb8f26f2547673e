"""Transformer encoders: gradients, padding, export, pruning, and that they learn."""

from __future__ import annotations

import numpy as np
import pytest

from compress import export
from compress.pruning import PruneChannels
from compress.quantization import QuantizeStatic
from compress.technique import Data, Rows
from hlserve.errors import ConfigError, DataError
from hlserve.nn import (
    AdamW,
    Input,
    Network,
    Node,
    check_gradients,
    encoder_block,
    fit,
    transformer_encoder,
)
from hlserve.nn.layers import Softmax
from hlserve.nn.param import Array
from tests.nn.cases.case import prefix_mask

TIME, FEATURES, N_IDS = 7, 4, 11


def of_numbers(spec: str = "transformer:8,2,2") -> Network:
    nodes = transformer_encoder(spec, "x", (TIME, FEATURES), 2)
    return closed([Input("x", (TIME, FEATURES))], nodes)


def of_ids(spec: str = "transformer:8,2,1") -> Network:
    """Ids and their mask, both inputs."""
    nodes = transformer_encoder(spec, "ids", (TIME,), 2, n_embeddings=N_IDS, mask="mask")
    return closed([Input("ids", (TIME,), "int64"), Input("mask", (TIME,), "int64")], nodes)


def closed(inputs: list[Input], nodes: list[Node]) -> Network:
    nodes = [*nodes, Node("softmax", Softmax(), (nodes[-1].name,))]
    network = Network(inputs, nodes, {"probabilities": "softmax"}, task="classification")
    return network.initialize(np.random.default_rng(0))


def padded_ids(n: int) -> dict[str, Array]:
    """Ids from 1 on, padding 0 behind the end, and the mask that says where the end is."""
    rng = np.random.default_rng(0)
    mask = prefix_mask(rng, (n, TIME))
    return {"ids": rng.integers(1, N_IDS, (n, TIME)) * mask, "mask": mask}


def numbers(n: int) -> Array:
    return np.random.default_rng(0).standard_normal((n, TIME, FEATURES), np.float32)


@pytest.mark.parametrize("mask", [None, "mask"])
def test_the_gradients_of_a_whole_block_agree_with_central_differences(mask: str | None) -> None:
    entries = [Input("x", (5, 6)), *([Input("mask", (5,), "int64")] if mask else [])]
    nodes = encoder_block("block", "x", 6, 3, hidden=9, dropout=0.3, mask=mask)
    network = Network(entries, nodes, {"y": nodes[-1].name}).initialize(np.random.default_rng(0))
    network.value += 0.1 * np.random.default_rng(1).standard_normal(network.n_parameters)
    rng = np.random.default_rng(2)
    rows = {"x": rng.standard_normal((4, 5, 6)), "mask": prefix_mask(rng, (4, 5))}
    check_gradients(network, {e.name: rows[e.name] for e in entries}, rng=rng)


def test_the_gradients_of_a_transformer_of_ids_agree() -> None:
    check_gradients(of_ids(), padded_ids(5), rng=np.random.default_rng(0), until="head")


def test_onnx_runtime_computes_the_same() -> None:
    for network, rows in ((of_numbers(), {"x": numbers(6)}), (of_ids(), padded_ids(6))):
        export.check_parity(network, export.to_onnx(network), rows)


def test_what_stands_behind_the_end_of_a_sequence_does_not_count() -> None:
    network, rows = of_ids(), padded_ids(8)
    other = {**rows, "ids": np.where(rows["mask"] == 1, rows["ids"], N_IDS - 1)}
    assert (other["ids"] != rows["ids"]).any()
    np.testing.assert_allclose(
        network.predict(other)["probabilities"],
        network.predict(rows)["probabilities"],
        rtol=1e-6,  # masked steps weigh exactly 0; sums of the padding's row may round otherwise
    )


def test_the_order_of_the_steps_counts() -> None:
    network, x = of_numbers(), numbers(3)
    turned = network.predict(x[:, ::-1])["probabilities"]
    assert np.abs(turned - network.predict(x)["probabilities"]).max() > 1e-3


def test_a_small_transformer_learns_which_of_two_events_came_first() -> None:
    rng = np.random.default_rng(0)
    x = 0.1 * rng.standard_normal((600, 12, 3)).astype(np.float32)
    steps = np.argsort(rng.random((600, 12)), axis=1)[:, :2]  # of the two events, never the same
    for event in (0, 1):
        x[np.arange(600), steps[:, event], event] += 1
    labels = (steps[:, 0] < steps[:, 1]).astype(np.int64)
    network = closed(
        [Input("x", (12, 3))], transformer_encoder("transformer:16,2,1", "x", (12, 3), 2)
    )
    fit(network, x[:500], labels[:500], optimizer=AdamW(0.005), epochs=25, progress=False)
    guesses = network.predict(x[500:])["probabilities"].argmax(axis=1)
    assert (guesses == labels[500:]).mean() > 0.9


def test_hidden_units_of_blocks_can_be_pruned_and_nothing_else() -> None:
    network = of_numbers("transformer:8,2,1")
    flow = network.channel_flow()
    free = {
        id(b.param)
        for b in flow.bindings()
        if b.is_producer and not flow.protected().intersection(b.ids.tolist())
    }
    names = {name for name, param in network.params().items() if id(param) in free}
    assert names == {"block_1_linear_1.weight", "block_1_linear_1.bias"}


def test_pruned_and_quantized_it_answers_nearly_the_same() -> None:
    network, x = of_numbers("transformer:16,2,1"), numbers(200)
    data = Data(Rows({"x": x}, None))
    pruned = PruneChannels(0.25, importance="l1").apply(network, data).network
    assert pruned.n_parameters < network.n_parameters
    export.check_parity(pruned, export.to_onnx(pruned), x)
    quantized = QuantizeStatic().apply(network, data).network
    # int8 steps of 1/127 of the largest value, through four layers of 16 terms
    assert export.parity(quantized, export.to_onnx(quantized), x) < 0.05


@pytest.mark.parametrize("spec", ["transformer", "transformer:8,2", "transformer:8,0,1"])
def test_specs_that_say_something_else_are_refused(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"dim, heads and blocks, as in transformer:64,4,2"):
        transformer_encoder(spec, "x", (TIME, FEATURES), 2)


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"dim \(=8\) must be a multiple of n_heads \(=3\)"):
        transformer_encoder("transformer:8,3,1", "x", (TIME, FEATURES), 2)


@pytest.mark.parametrize(
    ("shape", "n_ids"), [((3, 8, 8), None), ((TIME,), None), ((TIME, FEATURES), N_IDS)]
)
def test_rows_that_are_no_sequences_are_refused(shape: tuple[int, ...], n_ids: int | None) -> None:
    with pytest.raises(ConfigError, match=r"expects sequences \(time, features\), or ids \(time,"):
        transformer_encoder("transformer:8,2,1", "x", shape, 2, n_embeddings=n_ids)


# ----- ids at the border


@pytest.mark.parametrize(("wrong", "message"), [(-1, "holds id -1"), (N_IDS, f"holds id {N_IDS}")])
def test_ids_out_of_range_are_refused_by_row(wrong: int, message: str) -> None:
    rows = padded_ids(5)
    rows["ids"][3, 2] = wrong
    for use in (of_ids().predict, of_ids().forward):
        with pytest.raises(DataError, match=rf"input 'ids': row 3 {message}, expected 0 to 10"):
            use(rows)
    with pytest.raises(DataError, match="row 3"):
        fit(of_ids(), rows, np.array([0, 1, 0, 1, 0]), progress=False)


def test_ids_that_are_no_integers_are_refused() -> None:
    rows = padded_ids(5)
    with pytest.raises(DataError, match="input 'ids': dtype is float64, expected integer ids"):
        of_ids().predict({**rows, "ids": rows["ids"] + 0.0})
