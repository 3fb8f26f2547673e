"""Graphs cleaned before anything else: what goes, and that the answers stay."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from compress.model_file import opset
from compress.onnx_import import import_onnx
from compress.session import Session
from compress.simplify import Simplify, simplify

DENORMAL = np.float32(1e-40)


def with_weights(weight, *, is_constant=False):
    """y = Relu(x W), the weights an initializer or the value of a Constant node."""
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> '
        "g (float[N, 6] x) => (float[N, 4] y) { h = MatMul(x, w) y = Relu(h) }"
    )
    tensor = numpy_helper.from_array(weight, "w")
    if is_constant:
        node = onnx.helper.make_node("Constant", [], ["w"], value=tensor)
        model.graph.node.insert(0, node)
    else:
        model.graph.initializer.append(tensor)
    return model


@pytest.fixture
def weight():
    """Seeded weights, five of which are denormal and one of which is as small as one may be."""
    weight = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    weight.flat[:5] = [DENORMAL, -DENORMAL, 1e-45, 1e-39, -1e-42]
    weight.flat[5] = np.finfo(np.float32).tiny
    return weight


@pytest.fixture
def rows():
    """Seeded rows for the model."""
    return {"x": np.random.default_rng(1).standard_normal((5, 6)).astype(np.float32)}


def smallest(model):
    """The smallest float32 weights that are not zero."""
    arrays = [numpy_helper.to_array(t) for t in model.graph.initializer]
    arrays = [np.abs(a) for a in arrays if a.dtype == np.float32]
    return min(a[a > 0].min() for a in arrays)


@pytest.mark.parametrize("is_constant", [False, True])
def test_denormal_weights_become_zeros_and_the_note_counts_them(weight, rows, is_constant):
    model = with_weights(weight, is_constant=is_constant)
    before = model.SerializeToString()
    cleaned, notes = simplify(model, rows)
    assert smallest(cleaned) == np.finfo(np.float32).tiny
    assert [note.startswith("5 weights too small for a normal float32") for note in notes] == [True]
    assert model.SerializeToString() == before
    wanted = Session(before).run(rows)["y"]
    # Products with denormal weights lie far below the last digit of the others.
    np.testing.assert_allclose(
        Session(cleaned.SerializeToString()).run(rows)["y"], wanted, rtol=1e-6
    )


def test_normal_weights_stay_as_they_are_and_nothing_is_said(weight, rows):
    weight.flat[:5] = 0
    cleaned, notes = simplify(with_weights(weight), rows)
    assert notes == ()
    (found,) = (numpy_helper.to_array(t) for t in cleaned.graph.initializer)
    np.testing.assert_array_equal(found, weight)


def test_the_step_of_a_recipe_and_the_import_leave_no_denormal_weights_either(weight, rows):
    model = with_weights(weight)
    assert smallest(Simplify().apply(model, rows)) == np.finfo(np.float32).tiny
    found = import_onnx(model, rows)
    assert any("5 weights" in note for note in found.notes)
    value = np.abs(found.network.value)
    assert value[value > 0].min() == np.finfo(np.float32).tiny


def test_older_operators_are_brought_up_to_date(weight, rows):
    assert opset(simplify(with_weights(weight), rows)[0]) == 21  # the newest we write
