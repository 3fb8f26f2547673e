"""Recipes as files, and what is made of a source by one."""

import string
import tomllib

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.candidates import Plan
from compress.distillation import FineTune
from compress.evaluate import bind_rows
from compress.export import check, to_onnx
from compress.folding import FoldScale
from compress.graph_step import GraphStep
from compress.quantization import QuantizeStatic
from compress.quantization.blocks import INT4_WEIGHTS, BlockWeights
from compress.quantization.half import ToHalf
from compress.quantization.post_training import DYNAMIC_LSTM, PostTraining, ways
from compress.recipe import GRAPH_STEPS, Recipe, table_to_toml
from compress.remake import CALIBRATION_ROWS, calibration_rows, remake
from compress.session import Session
from compress.simplify import Simplify
from compress.technique import Data
from hlserve.errors import CompressionError, ConfigError, SchemaVersionError
from tests.compress.ladders import candidates

STEPS = [
    INT4_WEIGHTS,
    BlockWeights("int8 weights", bits=8, block=64),
    DYNAMIC_LSTM,
    PostTraining("static int8", static=("Conv", "Gemm"), per_channel=True),
    Simplify(),
    ToHalf(),
]
STATIC = PostTraining("static int8", static=("Gemm", "MatMul"))


@pytest.fixture(scope="module")
def model(trained_mlp):
    return to_onnx(trained_mlp)


def test_every_step_on_a_graph_has_a_case():
    assert {type(step) for step in STEPS} == set(GRAPH_STEPS)


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_a_step_on_a_graph_comes_back_from_its_file(step):
    assert isinstance(step, GraphStep)
    assert step.name
    for recipe in (Recipe((), (step,)), Recipe((FoldScale(),), (Simplify(), step))):
        assert Recipe.from_toml(recipe.to_toml()) == recipe


def test_every_recipe_that_the_search_writes_can_be_read_back(
    model, mlp_rows, trained_mlp, tmp_path
):
    recipe = Recipe((FoldScale(),), (STATIC,))
    found, _ = candidates(model, mlp_rows, tmp_path / "graph")
    written = [candidate.recipe for candidate in found]
    found, _ = candidates(trained_mlp, mlp_rows, tmp_path / "net", plan=Plan(recipe=recipe))
    written += [candidate.recipe for candidate in found]
    assert len(written) > 2
    assert all(Recipe.from_toml(text).to_toml() == text for text in written)


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_any_name_comes_back(name):
    recipe = Recipe((), (PostTraining(name, static=("Conv",)),))
    assert Recipe.from_toml(recipe.to_toml()) == recipe


@given(
    st.dictionaries(
        st.text(string.printable, max_size=5),
        st.one_of(
            st.booleans(),
            st.integers(-(2**63), 2**63 - 1),
            st.floats(allow_nan=False),
            st.lists(st.integers(0, 9), max_size=3),
        ),
    )
)
def test_any_setting_comes_back(settings):
    text = table_to_toml("[made_with]", {"settings": settings})
    assert tomllib.loads(text)["made_with"]["settings"] == settings


def test_numbers_of_numpy_are_written_as_numbers():
    assert table_to_toml("[x]", {"n": np.int64(3), "r": np.float32(0.5)}) == "[x]\nn = 3\nr = 0.5\n"


def test_a_network_cannot_be_changed_after_its_file():
    text = Recipe((), (Simplify(),)).to_toml() + Recipe((FoldScale(),)).to_toml()
    with pytest.raises(ConfigError, match="step 1: Simplify works on the exported file"):
        Recipe.from_toml(text)


def test_a_newer_lock_is_refused():
    head = "[made_with]\nschema_version = 99\n\n"
    with pytest.raises(SchemaVersionError, match=r"schema version 99.*upgrade"):
        Recipe.from_toml(head + Recipe((FoldScale(),)).to_toml())


# ----- remaking


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(()),
        Recipe((), (Simplify(), STATIC)),
        Recipe((FoldScale(),), (STATIC,)),
        Recipe((FineTune(epochs=1), FoldScale(), QuantizeStatic()), (Simplify(),)),
    ],
    ids=lambda recipe: "-".join(type(s).__name__ for s in (*recipe.steps, *recipe.endings)),
)
def test_the_same_bytes_are_made_each_time(recipe, trained_mlp, mlp_data):
    first = remake(trained_mlp, recipe, mlp_data, seed=3)
    second = remake(trained_mlp, recipe, mlp_data, seed=3)
    assert first.model == second.model
    steps = (*recipe.steps, *recipe.endings)
    assert [r.technique for r in first.reports] == [type(step).__name__ for step in steps]
    if steps:
        assert first.reports[-1].size_bytes == len(first.model)
    answers = Session(first.model).run({"input": mlp_data.train.x[:9].astype(np.float32)})
    assert answers["probabilities"].shape == (9, 4)


def test_a_graph_from_elsewhere_is_calibrated_on_the_rows_that_the_seed_chooses(model, mlp_rows):
    feeds = bind_rows(Session(model.SerializeToString()), mlp_rows)
    recipe = Recipe((), (Simplify(), ways(model)[0]))
    made = [remake(model, recipe, feeds=feeds, seed=seed).model for seed in (0, 0, 1)]
    assert made[0] == made[1] != made[2]
    check(onnx.load_model_from_string(made[0]))
    chosen = calibration_rows(feeds, seed=0)
    by_data = remake(model, recipe, Data(mlp_rows), seed=0)
    assert by_data.model == made[0]
    assert len(chosen["input"]) == CALIBRATION_ROWS
    assert by_data.network is None


def test_a_graph_takes_no_step_on_a_network(model, mlp_data):
    with pytest.raises(CompressionError, match="FoldScale works on a network"):
        remake(model, Recipe((FoldScale(),)), mlp_data)


def test_steps_without_rows_say_what_they_need(trained_mlp, model):
    with pytest.raises(CompressionError, match="need rows to learn from"):
        remake(trained_mlp, Recipe((FoldScale(),)))
    with pytest.raises(CompressionError, match="Simplify needs rows"):
        remake(model, Recipe((), (Simplify(),)))
