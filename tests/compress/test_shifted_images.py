"""Training on images that are shifted: what moves, where it is refused, and when it is chosen."""

import numpy as np
import pytest

from compress.distillation import Distill, FineTune, twin
from compress.distillation.shifted import ShiftedImages
from compress.recipe import Recipe
from compress.stem import Stem
from compress.teacher import learning_data
from compress.workshop import Workshop
from hlserve.datasets import Rows
from hlserve.errors import CompressionError, ConfigError
from hlserve.nn.architectures import build
from hlserve.nn.optimizers import AdamW
from hlserve.nn.trainer import fit
from tests.compress.ladders import candidates

SHAPE = (1, 12, 12)


@pytest.fixture(scope="module")
def flat_mlp():
    """Takes images flat."""
    return build("mlp:16", input_shape=(144,), n_outputs=3, task="classification", scale=1 / 255)


def learned(network, rows):
    return learning_data(network, rows, None, seed=0, progress=False)


def test_flat_rows_move_as_the_images_they_are(rng):
    images = np.zeros((40, 1, 8, 8), np.uint8)
    images[:, 0, 4, 4] = 9
    moved = ShiftedImages((1, 8, 8), 1)(images.reshape(40, 64), rng).reshape(40, 8, 8)
    n, rows, columns = np.nonzero(moved)
    assert n.tolist() == list(range(40))  # each pixel is still there, once
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == {
        (r, c) for r in (3, 4, 5) for c in (3, 4, 5)
    }


def test_fine_tuning_is_the_trainers_own_with_shifted_images(flat_mlp, image_rows):
    data = learned(flat_mlp, image_rows)
    ours = FineTune(epochs=2, shift=1).apply(flat_mlp, data).network
    theirs = flat_mlp.copy()
    fit(
        theirs, data.train.inputs, image_rows.y, validation=None, epochs=2, batch_size=128,
        optimizer=AdamW(3e-3), augment=ShiftedImages(SHAPE, 1), seed=0, progress=False,
    )  # fmt: skip
    np.testing.assert_array_equal(ours.value, theirs.value)
    at_rest = FineTune(epochs=2).apply(flat_mlp, data).network
    assert not np.array_equal(ours.value, at_rest.value)


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((1, 12, 12), np.uint8, (1, 12, 12)),
        ((3, 8, 16), np.float32, (3, 8, 16)),
        ((9, 12, 12), np.float32, None),  # too many channels for an image
        ((1, 4, 36), np.float32, None),  # too flat
        ((144,), np.uint8, None),
        ((12, 12), np.float32, None),
        ((1, 12, 12), np.int64, None),
    ],
)
def test_images_are_told_by_their_axes(shape, dtype, expected, rng):
    rows = Rows({"x": rng.integers(0, 9, (5, *shape)).astype(dtype)}, np.arange(5) % 2)
    size = int(np.prod(shape))
    network = build("mlp:4", input_shape=(size,), n_outputs=2, task="classification")
    assert learned(network, rows).image_shape == expected


@pytest.mark.parametrize("technique", [FineTune, Distill])
def test_what_cannot_be_shifted_is_refused(technique, trained_mlp, mlp_rows, mlp_data):
    with pytest.raises(ConfigError, match="shift is -1, expected 0 or more pixels"):
        technique(shift=-1)
    with pytest.raises(CompressionError, match=r"the rows are no images.*set shift to 0"):
        technique(shift=1).apply(trained_mlp, mlp_data)


def test_the_twin_shifts_as_far_and_recipes_say_so():
    assert twin(Distill(shift=2)) == FineTune(shift=2)
    recipe = Recipe((Distill(shift=1), FineTune(shift=1)))
    assert Recipe.from_toml(recipe.to_toml()) == recipe


def test_processes_shift_as_this_one_does(flat_mlp, image_rows, tmp_path):
    data = learned(flat_mlp, image_rows)
    stems = [Stem("", "x").grown(f"{n}", "x", FineTune(epochs=1 + n, shift=1)) for n in range(2)]
    here, apart = (
        Workshop.opened(flat_mlp, data, tmp_path / f"{jobs}", jobs=jobs, notes=[]).grown(stems)
        for jobs in (1, 2)
    )
    for ours, theirs in zip(here, apart, strict=True):
        np.testing.assert_array_equal(ours.network.value, theirs.network.value)


@pytest.mark.parametrize(
    ("at_rest", "shifted", "goes_on"),
    [
        (0.05, 0.0, "shifted"),
        (0.0, 0.02, "shifted"),  # a quarter of the bound is no clear lead
        (0.0, 0.05, "at rest"),
        (0.0, 1.0, "at rest"),
    ],
)
def test_the_first_trainings_try_both_ways_and_shifting_stays_unless_clearly_behind(
    at_rest, shifted, goes_on, small_lenet, image_rows, tmp_path
):
    found, _ = candidates(
        small_lenet, image_rows, tmp_path, most=60, minimize="macs",
        drop_of=lambda name: shifted if "shifted" in name else at_rest,
    )  # fmt: skip
    trained = [c for c in found if "pruned to" in c.name]
    widths = list(dict.fromkeys(c.name.split(",")[0] for c in trained))
    first = {c.name for c in trained if c.name.startswith(widths[0])}
    assert {"shifted images" in name for name in first} == {True, False}
    later = {"shifted images" in c.name for c in trained if not c.name.startswith(widths[0])}
    assert later == {goes_on == "shifted"}


def test_rows_that_are_no_images_are_trained_one_way(trained_mlp, mlp_rows, tmp_path):
    found, _ = candidates(trained_mlp, mlp_rows, tmp_path, most=12)
    assert not any("shifted" in c.name for c in found)
    assert any("no teacher" in c.name for c in found)
