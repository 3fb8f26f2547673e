"""What a lock holds, and which are refused."""

import dataclasses

import numpy as np
import pytest

from compress.digests import file_sha256, rows_sha256
from compress.folding import FoldScale
from compress.lock import Environment, Ingredients, Lock
from compress.machine import FORMAT_FLAGS, Cores, blas, cores, processor
from compress.quantization import QuantizeStatic
from compress.recipe import SCHEMA_VERSION, Recipe
from compress.simplify import Simplify
from hlserve.datasets import Rows
from hlserve.errors import ConfigError, ModelFileError, SchemaVersionError

RECIPE = Recipe((FoldScale(), QuantizeStatic()), (Simplify(),))
FULL = Ingredients(
    model="runs/a b.safetensors",
    model_sha256="a" * 64,
    data='C:\\rows "1".npz',
    data_sha256="b" * 64,
    result_sha256="c" * 64,
    seed=7,
    split_seed=7,
    rows_apart=120,
    target="y",
    evaluation="val.npz",
    evaluation_sha256="d" * 64,
    teacher="t.onnx",
    teacher_sha256="e" * 64,
    student="mlp:8",
    output="probabilities",
    metric="accuracy",
    max_drop=0.005,
    minimize="bytes",
    batches=(1, 32),
    provider="cpu",
    trials=12,
)


@pytest.mark.parametrize("ingredients", [FULL, Ingredients()], ids=["full", "empty"])
def test_a_lock_comes_back_and_is_a_recipe(ingredients):
    lock = Lock(Environment.here(), ingredients, RECIPE)
    text = lock.to_toml()
    assert Lock.from_toml(text) == lock
    assert Recipe.from_toml(text) == RECIPE
    assert f"schema_version = {SCHEMA_VERSION}" in text


def test_every_ingredient_of_the_case_differs_from_its_default():
    defaults = dataclasses.asdict(Ingredients())
    same = [k for k, v in dataclasses.asdict(FULL).items() if v == defaults[k]]
    assert same == ["provider"]


def test_the_environment_is_this_machine():
    import onnxruntime

    here = Environment.here()
    assert here.onnxruntime == onnxruntime.__version__
    assert here.numpy == np.__version__
    assert here.blas_threads >= 1
    assert here.differences(here) == []


def test_differences_are_said_and_the_number_of_threads_is_none():
    here = Environment.here()
    other = dataclasses.replace(here, numpy="0.1", cpu_flags=("avx2",), blas_threads=9)
    assert other.differences(here)[0] == f"numpy 0.1, now {here.numpy}"
    assert len(other.differences(here)) == 2


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("x = [", ConfigError, "is no TOML"),
        (RECIPE.to_toml(), ConfigError, "it is a recipe"),
        ("[made_with]\nschema_version = 1\n" + RECIPE.to_toml(), SchemaVersionError, "version 1"),
        ("[made_with]\nnumpy = '2'\n" + RECIPE.to_toml(), SchemaVersionError, "version 1"),
        ("[made_with]\nschema_version = 99\n" + RECIPE.to_toml(), SchemaVersionError, "upgrade"),
        (
            f"[made_with]\nschema_version = {SCHEMA_VERSION}\n" + RECIPE.to_toml(),
            ConfigError,
            "missing required field `hlserve`",
        ),
    ],
)
def test_what_is_no_lock_of_today_is_refused(text, error, message):
    with pytest.raises(error, match=message):
        Lock.from_toml(text)


def test_files_that_are_missing_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.lock cannot be read"):
        Lock.read(tmp_path / "none.lock")
    with pytest.raises(ModelFileError, match=r"none\.onnx cannot be read"):
        file_sha256(tmp_path / "none.onnx")


def test_any_change_of_rows_changes_their_digest():
    x, y = np.arange(6, dtype=np.float32).reshape(3, 2), np.array([0, 1, 0])
    changed = x.copy()
    changed[2, 1] = -5
    digests = [
        rows_sha256(rows)
        for rows in (
            Rows({"x": x}, y),
            Rows({"x": changed}, y),
            Rows({"x": x}, 1 - y),
            Rows({"x": x}),
            Rows({"z": x}, y),
            Rows({"x": x.astype(np.float64)}, y),
            Rows({"x": x.reshape(3, 2, 1)}, y),
            Rows({"x": x[::-1]}, y[::-1]),
        )
    ]
    assert len(set(digests)) == len(digests)
    assert rows_sha256(Rows({"x": np.asfortranarray(x)}, y)) == digests[0]


# ----- the machine


def test_the_processor_is_read_from_linux_own_description(tmp_path):
    told = "processor : 0\nmodel name : Some CPU\nflags : fpu avx2 avx512_vnni\nmodel name : x\n"
    file = tmp_path / "cpuinfo"
    file.write_text(told)
    found = processor(file)
    assert (found.model, found.flags) == ("Some CPU", ("avx2", "avx512_vnni"))
    assert set(found.flags) <= set(FORMAT_FLAGS)


def test_elsewhere_flags_are_unknown(tmp_path):
    found = processor(tmp_path / "none")
    assert found.flags is None
    assert found.model


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({}, None),
    ],
)
def test_the_limit_of_a_control_group_is_read(files, limit, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores(tmp_path).limit == limit


def test_threads_stay_below_the_limit():
    assert [Cores(8, limit).threads for limit in (None, 2.5, 0.5, 16.0)] == [8, 2, 1, 8]
    assert cores().threads >= 1
    assert blas()[1] >= 1
