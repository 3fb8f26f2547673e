"""Laws that every technique keeps, over one table of cases."""

import dataclasses

import numpy as np
import pytest

from compress.distillation import Distill, FineTune
from compress.export import check, to_onnx
from compress.factorization import FactorizeLinear
from compress.folding import FoldBatchNorm, FoldScale
from compress.pruning import PruneChannels
from compress.quantization import QuantizeStatic
from compress.recipe import TECHNIQUES, Recipe
from compress.session import Session
from compress.technique import Compressed, Data, Technique
from hlserve.datasets import Rows
from hlserve.errors import CompressionError, ConfigError

CASES = [
    Distill(epochs=1),
    Distill(epochs=1, alpha=1.0, temperature=4.0),
    FactorizeLinear((8, 16)),
    FactorizeLinear(energy=0.9, is_weighted=False),
    FineTune(epochs=1),
    FoldBatchNorm(),
    FoldScale(),
    PruneChannels(0.5),
    PruneChannels(0.5, importance="l1", round_to=1),
    PruneChannels(importance="l2", widths=(24, 8)),
    PruneChannels(0.5, layers="linear"),
    QuantizeStatic(),
    QuantizeStatic(layers="linear"),
    QuantizeStatic(observer="percentile", percentile=99.0, rows=100),
    Recipe((FoldScale(), PruneChannels(0.5), Distill(epochs=1), QuantizeStatic())),
]


def test_every_technique_has_a_case():
    assert {type(case) for case in CASES} == {*TECHNIQUES, Recipe}


@pytest.mark.parametrize("technique", CASES, ids=str)
def test_result_is_new_answers_and_is_the_same_each_time(technique, trained_mlp, mlp_data):
    before = trained_mlp.value.copy()
    first = technique.apply(trained_mlp, mlp_data)
    second = technique.apply(trained_mlp, mlp_data)
    assert np.array_equal(before, trained_mlp.value)
    model = to_onnx(first.network)
    check(model)
    assert model.SerializeToString() == to_onnx(second.network).SerializeToString()
    answers = Session(model.SerializeToString()).run(
        {"input": mlp_data.train.x[:7].astype(np.float32)}
    )
    assert answers["probabilities"].shape == (7, 4)
    np.testing.assert_allclose(answers["probabilities"].sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("technique", CASES, ids=str)
def test_reports_say_what_the_network_became(technique, trained_mlp, mlp_data):
    result = technique.apply(trained_mlp, mlp_data)
    last = result.reports[-1]
    assert last.parameters == result.network.n_parameters
    assert last.macs == result.network.macs()
    assert last.size_bytes == to_onnx(result.network).ByteSize()


@pytest.mark.parametrize("technique", CASES, ids=str)
def test_recipe_file_round_trip(technique):
    if isinstance(technique, Recipe):
        recipe = technique
    else:
        recipe = Recipe((technique,))
    assert Recipe.from_toml(recipe.to_toml()) == recipe


@dataclasses.dataclass(frozen=True)
class _Vandal(Technique):
    def transform(self, network, data):
        network.value += 1
        return Compressed(network.copy())


def test_a_technique_that_changes_its_input_is_caught(trained_mlp, mlp_data):
    with pytest.raises(CompressionError, match="_Vandal changed the network"):
        _Vandal().apply(trained_mlp.copy(), mlp_data)


@pytest.mark.parametrize(
    "technique", [FactorizeLinear(), FineTune(), FoldScale(), PruneChannels(), QuantizeStatic()]
)
def test_nothing_follows_quantization(technique, trained_mlp, mlp_data):
    recipe = Recipe((QuantizeStatic(), technique))
    with pytest.raises(CompressionError, match=r"step 2 of 2.*quantized already"):
        recipe.apply(trained_mlp, mlp_data)


def test_what_needs_labels_or_a_teacher_says_so(trained_mlp, mlp_rows):
    unlabelled = Data(Rows(mlp_rows.inputs))
    for technique, message in (
        (FineTune(), "needs labels"),
        (PruneChannels(importance="taylor"), "needs labels"),
        (Distill(), "needs a teacher"),
    ):
        with pytest.raises(CompressionError, match=message):
            technique.apply(trained_mlp, unlabelled)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step = [", "is no TOML"),
        ("", "no steps"),
        ('[[steps]]\ntechnique = "Distill"', "unknown key 'steps'"),
        ('[[step]]\ntechnique = "Destill"', "unknown technique 'Destill'; there are Distill"),
        ("[[step]]\nratio = 0.5", "expected a table with technique"),
        ('[[step]]\ntechnique = "PruneChannels"\nration = 0.5', "no setting 'ration'"),
        ('[[step]]\ntechnique = "PruneChannels"\nratio = "half"', "Expected `float`, got `str`"),
        ('[[step]]\ntechnique = "PruneChannels"\nratio = 1.5', "expected 0 <= ratio < 1"),
        ('[[step]]\ntechnique = "QuantizeStatic"\nobserver = "max"', "Invalid enum value 'max'"),
        ('[[step]]\ntechnique = "FoldScale"\nx = 1', "it takes none"),
    ],
)
def test_recipe_mistakes_are_named(text, message):
    with pytest.raises(ConfigError, match=message):
        Recipe.from_toml(text)


def test_a_recipe_file_that_is_missing_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        Recipe.read(tmp_path / "none.toml")
