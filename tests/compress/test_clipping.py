"""The report's histograms are those of the values, and its cuts those of the file."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from compress.candidates import Candidate
from compress.clipping import MOST_BINS, clipping_of_graph, clipping_of_network
from compress.evaluate import bind_rows
from compress.export import to_onnx
from compress.folding import FoldScale
from compress.job import Effort, Wishes, prepare
from compress.quantization import QuantizeStatic
from compress.quantization.post_training import DYNAMIC_LSTM, PostTraining
from compress.recipe import Recipe
from compress.remake import calibration_rows, remake
from compress.report.page import render_html
from compress.session import Session
from compress.simplify import Simplify
from compress.splits import Split
from compress.technique import Data

STATIC = PostTraining("static int8", static=("Gemm", "MatMul", "Relu"), percentile=99.0)


def held(model):
    """The numbers that each QuantizeLinear of a file can answer with: smallest, largest."""
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return {
        (float((0.0 - zero) * scale), float((255.0 - zero) * scale))
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
        for scale, zero in [(constants[node.input[1]], np.float64(constants[node.input[2]]))]
    }


def values_of(model, names, feeds):
    """Values inside a graph, by a run of our own."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    known = {entry.name for entry in (*copy.graph.input, *copy.graph.output)}
    copy.graph.output.extend(
        helper.make_empty_tensor_value_info(n) for n in names if n not in known
    )
    return {**feeds, **Session(copy.SerializeToString()).run(feeds)}


def test_a_networks_histograms_hold_every_value_and_its_cuts_are_in_the_file(trained_mlp, mlp_data):
    recipe = Recipe((FoldScale(), QuantizeStatic(observer="percentile", percentile=98.0)))
    made = remake(trained_mlp, recipe, mlp_data)
    told = clipping_of_network(recipe, made.network, mlp_data)
    shapes = made.network.shapes
    assert len(told) == 3
    for tensor in told:
        assert sum(tensor["counts"]) == 512 * np.prod(shapes[tensor["name"]])
        assert len(tensor["counts"]) <= MOST_BINS
        # The side that ends at zero stays, so all of the 2 % goes from the other one; an integer
        # step and a bin more stay, which values at the cut may fill.
        assert 0 < tensor["clipped"] < 0.02
    cuts = {(tensor["cut_low"], tensor["cut_high"]) for tensor in told}
    assert cuts == held(onnx.load_model_from_string(made.model))


@pytest.mark.parametrize("ahead", [(), (Simplify(),)], ids=["alone", "behind another step"])
def test_a_graphs_shares_are_those_of_its_values(ahead, trained_mlp, mlp_rows):
    model = to_onnx(trained_mlp)
    feeds = bind_rows(Session(model.SerializeToString()), mlp_rows)
    recipe = Recipe((), (*ahead, STATIC))
    told = clipping_of_graph(recipe, model, feeds, seed=4)
    assert len(told) >= 3
    rows = calibration_rows(feeds, seed=4)
    graph = model
    for step in ahead:
        graph = step.apply(graph, rows)
    values = values_of(graph, [t["name"] for t in told], rows)
    for tensor in told:
        seen = values[tensor["name"]]
        assert sum(tensor["counts"]) == seen.size
        outside = (seen < tensor["cut_low"]) | (seen > tensor["cut_high"])
        # Counted by bins, of which the two at the cuts may hold a few values more or less.
        assert tensor["clipped"] == pytest.approx(np.mean(outside), abs=0.002)
    made = onnx.load_model_from_string(remake(model, recipe, feeds=feeds, seed=4).model)
    assert {(t["cut_low"], t["cut_high"]) for t in told} <= held(made)


def test_steps_on_the_file_of_a_network_are_told_of_too(trained_mlp, mlp_data):
    recipe = Recipe((FoldScale(),), (STATIC,))
    made = remake(trained_mlp, recipe, mlp_data)
    told = clipping_of_network(recipe, made.network, mlp_data)
    assert {(t["cut_low"], t["cut_high"]) for t in told} <= held(
        onnx.load_model_from_string(made.model)
    )
    assert len(told) >= 3


def test_without_static_integers_there_is_nothing_to_tell(trained_mlp, mlp_data):
    for recipe in (Recipe((FoldScale(),)), Recipe((FoldScale(),), (DYNAMIC_LSTM,))):
        assert clipping_of_network(recipe, trained_mlp, mlp_data) == []
    feeds = {"input": mlp_data.train.x[:20].astype(np.float32)}
    assert clipping_of_graph(Recipe((), (Simplify(),)), to_onnx(trained_mlp), feeds, seed=0) == []


@pytest.mark.parametrize("is_file", [False, True], ids=["checkpoint", "ONNX file"])
def test_a_search_can_tell_of_its_candidates(is_file, trained_mlp, mlp_rows, tmp_path):
    model = to_onnx(trained_mlp) if is_file else trained_mlp
    split = Split(mlp_rows, mlp_rows, None, "")
    prepared, _ = prepare(model, split, Wishes(0.1, batches=(1,)), Effort(tmp_path))
    recipe = Recipe((), (STATIC,)) if is_file else Recipe((FoldScale(), QuantizeStatic()))
    if is_file:
        feeds = bind_rows(Session(model.SerializeToString()), mlp_rows)
        content = remake(model, recipe, feeds=feeds).model
        candidate = Candidate("graph", content, 1, recipe.to_toml(), family="graph")
    else:
        made = remake(model, recipe, Data(mlp_rows))
        candidate = Candidate.of_network("int8", "folded", recipe, made)
    told = prepared.calibration(candidate)
    assert len(told) >= 3
    assert prepared.calibration(prepared.original) == []
    page = render_html({"original": {"name": "original"}, "calibration": told})
    assert all(tensor["name"] in page for tensor in told)
