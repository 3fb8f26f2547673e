"""Recurrent networks made smaller: hidden units pruned, the LSTM in integers."""

from collections import Counter

import numpy as np
import onnx
import pytest

from compress.candidates import Plan
from compress.export import check_parity, to_onnx
from compress.folding import FoldScale
from compress.job import compress
from compress.pruning import PruneChannels
from compress.pruning.channels import removable_widths
from compress.quantization.post_training import DYNAMIC_LSTM
from compress.recipe import Recipe
from compress.session import Session
from compress.technique import Data
from hlserve.errors import ConfigError
from hlserve.nn import checkpoint, fit
from hlserve.nn.architectures import build
from hlserve.nn.layers import Scale
from tests.compress.conftest import made_rows
from tests.compress.ladders import candidates


@pytest.fixture(scope="module")
def rows():
    return made_rows(600, (1, 12, 8), 3)


def made(spec):
    return build(
        spec, input_shape=(1, 12, 8), n_outputs=3, task="classification", scale=1 / 255, seed=1
    )


@pytest.fixture(scope="module")
def lstm(rows):
    network = made("lstm:32")
    fit(network, rows.inputs, rows.y, epochs=6, progress=False)
    return network


def operators(model):
    graph = onnx.load_model_from_string(model).graph
    return Counter(node.op_type for node in graph.node)


@pytest.mark.parametrize("spec", ["lstm:32", "gru:32,24", "rnn:32", "bilstm:32,24", "bigru:32"])
def test_half_of_the_hidden_units_can_go(spec, rows):
    network = made(spec)
    widths = [int(size) for size in spec.partition(":")[2].split(",")]
    assert removable_widths(network) == widths
    smaller = PruneChannels(0.5).apply(network, Data(rows)).network
    kept = [n.layer.hidden_size for n in smaller.nodes if hasattr(n.layer, "hidden_size")]
    assert kept == [16] * len(widths)  # of 24 too: 12 is as near to 16 as to 8
    assert smaller.n_parameters < 0.6 * network.n_parameters
    check_parity(smaller, to_onnx(smaller), rows.take(slice(0, 8)).inputs)


@pytest.mark.parametrize("spec", ["lstm:8", "bigru:8", "rnn:8"])
def test_a_scale_is_folded_into_a_recurrent_layer(spec, rows):
    network = made(spec)
    folded = FoldScale().apply(network, Data(rows)).network
    assert not any(isinstance(node.layer, Scale) for node in folded.nodes)
    x = rows.take(slice(0, 8)).inputs
    ours, theirs = (n.predict(x)["probabilities"] for n in (folded, network))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)  # float32 sums of scaled terms


def test_a_compression_offers_an_integer_lstm(lstm, rows, tmp_path):
    checkpoint.save(lstm, tmp_path / "lstm.safetensors")
    loaded = checkpoint.load(tmp_path / "lstm.safetensors")
    result = compress(loaded, train=rows, max_drop=0.2, prune=0.5, minimize="bytes", batches=(1,))
    found = {verdict.candidate.name: verdict.candidate for verdict in result.tried}
    names = ["pruned 50 %", f"pruned 50 %, {DYNAMIC_LSTM.name}"]
    assert set(names) <= set(found)
    floats, integers = (found[name] for name in names)
    assert operators(integers.model)["DynamicQuantizeLSTM"] == 1
    assert integers.size_bytes < floats.size_bytes
    assert [step.technique for step in integers.steps][-1] == "PostTraining"
    assert result.best.candidate.size_bytes < result.original.candidate.size_bytes


def test_an_integer_lstm_answers_nearly_the_same(lstm, rows, tmp_path):
    plan = Plan(recipe=Recipe((), (DYNAMIC_LSTM,)))
    found, _ = candidates(lstm, rows, tmp_path / "search", plan=plan)
    model = found[0].model
    x = rows.inputs["x"].astype(np.float32)
    theirs = Session(model).run({"input": x})["probabilities"]
    ours = lstm.predict(x)["probabilities"]
    assert np.mean(theirs.argmax(1) == ours.argmax(1)) > 0.97
    assert len(model) < 0.6 * len(to_onnx(lstm).SerializeToString())


def test_what_is_done_to_the_file_stands_last_in_a_recipe():
    recipe = Recipe((FoldScale(),), (DYNAMIC_LSTM,))
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    first = (
        '[[step]]\ntechnique = "PostTraining"\nname = "x"\n\n[[step]]\ntechnique = "FoldScale"\n'
    )
    with pytest.raises(ConfigError, match="step 1: PostTraining works on the exported file"):
        Recipe.from_toml(first)


@pytest.mark.parametrize(("spec", "quantize"), [("gru:8", None), ("lstm:8", "none")])
def test_without_an_integer_form_or_the_wish_for_one_floats_stay(spec, quantize, rows, tmp_path):
    plan = Plan(quantize=quantize)
    found, _ = candidates(made(spec), rows, tmp_path / "search", plan=plan, most=3)
    names = [candidate.name for candidate in found]
    assert "folded" in names
    assert not any("LSTM" in name for name in names)
