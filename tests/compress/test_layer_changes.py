"""The report's table of layers says of each weight what it is in the file."""

import pytest

from compress.changes import layer_changes
from compress.folding import FoldScale
from compress.model_file import weight_formats
from compress.quantization import QuantizeStatic
from compress.quantization.blocks import INT4_WEIGHTS
from compress.quantization.half import ToHalf
from compress.quantization.post_training import DYNAMIC_LSTM
from compress.recipe import Recipe
from compress.remake import remake
from compress.technique import Data
from hlserve.datasets import Rows
from hlserve.nn.architectures import build

CASES = [
    (Recipe((FoldScale(),)), ("float32", "float32")),
    (Recipe((QuantizeStatic(),)), ("float32", "int8")),
    (Recipe((), (ToHalf(),)), ("float16", "float16")),
    (Recipe((), (DYNAMIC_LSTM,)), ("int8", "float32")),
    (Recipe((), (INT4_WEIGHTS,)), ("float32", "int4")),
]


@pytest.mark.parametrize(("recipe", "formats"), CASES, ids=lambda value: str(value)[:40])
def test_formats_are_those_of_the_file(recipe, formats, rng):
    network = build("lstm:32", input_shape=(5, 6), n_outputs=40, task="classification")
    rows = Rows({"x": rng.normal(size=(60, 5, 6)).astype("float32")})
    made = remake(network, recipe, Data(rows))
    changes = layer_changes(network, made.network, made.reports, weight_formats(made.model))
    assert tuple(change.number_format for change in changes) == formats
    for change in changes:
        if change.number_format != "float32":
            assert change.number_format in change.why


def test_a_layer_that_a_step_has_left_alone_is_told_as_floats(trained_mlp, mlp_data):
    recipe = Recipe((), (INT4_WEIGHTS,))
    made = remake(trained_mlp, recipe, mlp_data)
    changes = layer_changes(trained_mlp, made.network, made.reports, weight_formats(made.model))
    # 32 x 4 weights are too few to gain.
    assert [change.number_format for change in changes] == ["int4", "int4", "float32"]
