"""A version made again in another process has the same bytes."""

import dataclasses
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from compress.digests import file_sha256, rows_sha256
from compress.distillation import Distill, FineTune
from compress.evaluate import bind_rows
from compress.export import to_onnx
from compress.folding import FoldScale
from compress.lock import Environment, Ingredients, Lock
from compress.pruning import PruneChannels
from compress.quantization import QuantizeStatic
from compress.quantization.blocks import INT4_WEIGHTS
from compress.quantization.half import ToHalf
from compress.quantization.post_training import PostTraining
from compress.recipe import Recipe
from compress.remake import remake
from compress.replay import learning_rows, located, replay, require_file, require_trust
from compress.session import Session
from compress.simplify import Simplify
from compress.student import student_for
from compress.teacher import teacher_logits
from compress.technique import Data
from hlserve.datasets import load
from hlserve.errors import ConfigError, DataError, ModelFileError
from hlserve.nn import checkpoint
from hlserve.nn.split import validation_split

ROOT = Path(__file__).parents[2]
TRAINED = Recipe((PruneChannels(0.5), FineTune(epochs=1), FoldScale(), QuantizeStatic()))
TAUGHT = Recipe((Distill(epochs=1), FoldScale()), (PostTraining("int8", static=("Gemm",)),))
IN_HALF = Recipe((FineTune(epochs=1), FoldScale()), (Simplify(), ToHalf()))
IN_BLOCKS = Recipe((), (Simplify(), INT4_WEIGHTS))
ON_GRAPH = Recipe((), (Simplify(), PostTraining("int8", static=("Gemm", "MatMul"))))


@pytest.fixture(scope="module")
def work(tmp_path_factory, trained_mlp, mlp_rows):
    folder = tmp_path_factory.mktemp("work")
    checkpoint.save(trained_mlp, folder / "net.safetensors")
    (folder / "net.onnx").write_bytes(to_onnx(trained_mlp).SerializeToString())
    np.savez(folder / "rows.npz", x=mlp_rows.x, y=mlp_rows.y)
    return folder


def locked(work, recipe, *, threads=1, student=None, apart=0):
    """A lock as the search would write it, and its rows."""
    rows = load(work / "rows.npz").train
    if apart:
        kept, _ = validation_split(len(rows), apart / len(rows), seed=5, labels=rows.y)
        train = rows.take(kept)
    else:
        train = rows
    is_graph = not recipe.steps
    file = work / ("net.onnx" if is_graph else "net.safetensors")
    network = checkpoint.load(work / "net.safetensors")
    with threadpool_limits(limits=threads, user_api="blas"):
        if is_graph:
            source = to_onnx(network)
            feeds = bind_rows(Session(source.SerializeToString()), train)
            made = remake(source, recipe, feeds=feeds, seed=5)
        else:
            root = network if student is None else student_for(student, network, train, seed=5)
            logits = teacher_logits(network, train, None)
            inputs = root.fitting_rows(train.inputs_for([i.name for i in root.inputs]))
            data = Data(dataclasses.replace(train, inputs=inputs), logits, seed=5)
            made = remake(root, recipe, data, seed=5)
        environment = Environment.here()
    ingredients = Ingredients(
        model=file.name,
        model_sha256=file_sha256(file),
        data="rows.npz",
        data_sha256=rows_sha256(train),
        result_sha256=hashlib.sha256(made.model).hexdigest(),
        seed=5,
        split_seed=5,
        rows_apart=apart,
        student=student,
    )
    return Lock(environment, ingredients, recipe), rows


@pytest.mark.parametrize(
    ("recipe", "threads"),
    [(TRAINED, 1), (TRAINED, 2), (TAUGHT, 2), (ON_GRAPH, 1), (IN_HALF, 1), (IN_BLOCKS, 1)],
    ids=["fine-tuned", "fine-tuned, two threads", "taught", "on a graph", "half", "blocks"],
)
def test_another_process_makes_the_same_bytes(recipe, threads, work, tmp_path):
    lock, _ = locked(work, recipe, threads=threads, apart=180)
    file = work / f"{threads}-{len(recipe.endings)}.lock"
    file.write_text(lock.to_toml())
    out = tmp_path / "again.onnx"
    # Another order of hashes, and another number of threads than the lock's, to begin with.
    environment = os.environ | {
        "PYTHONHASHSEED": "77",
        "OPENBLAS_NUM_THREADS": str(3 - threads),
        "PYTHONPATH": str(ROOT),
    }
    words = [sys.executable, "-m", "hlserve", "replay", str(file), "--out", str(out)]
    done = subprocess.run(
        words, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("identical: ")
    assert "warning" not in done.stderr
    assert hashlib.sha256(out.read_bytes()).hexdigest() == lock.ingredients.result_sha256


def test_a_student_is_made_again(work):
    recipe = Recipe((Distill(epochs=1), FoldScale(), QuantizeStatic()))
    lock, rows = locked(work, recipe, student="mlp:16")
    found = replay(lock, checkpoint.load(work / "net.safetensors"), rows)
    assert found.is_identical
    assert found.warnings == ()


def test_another_recipe_is_seen(work):
    lock, rows = locked(work, ON_GRAPH)
    other = dataclasses.replace(lock, recipe=Recipe((), (Simplify(),)))
    environment = dataclasses.replace(lock.environment, numpy="0.1")
    source = to_onnx(checkpoint.load(work / "net.safetensors"))
    found = replay(dataclasses.replace(other, environment=environment), source, rows)
    assert not found.is_identical
    assert found.sha256 == hashlib.sha256(found.model).hexdigest()
    assert found.warnings == (f"numpy 0.1, now {np.__version__}",)


def test_other_rows_are_refused(work):
    lock, rows = locked(work, ON_GRAPH, apart=100)
    assert len(learning_rows(rows, lock.ingredients)) == len(rows) - 100
    with pytest.raises(DataError, match=r"not those that the lock was made from"):
        learning_rows(rows.take(slice(1, None)), lock.ingredients)
    with pytest.raises(DataError, match=r"leaves none to learn from"):
        learning_rows(rows.take(slice(0, 50)), lock.ingredients)


def test_files_are_found_beside_the_lock_and_known_by_their_bytes(work, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lock = work / "recipe.lock"
    assert located("net.onnx", lock) == work / "net.onnx"
    assert located("elsewhere/net.onnx", lock) == work / "net.onnx"
    (tmp_path / "net.onnx").write_bytes(b"another")
    assert located("net.onnx", lock) == Path("net.onnx")
    with pytest.raises(ModelFileError, match=r"neither in the current folder nor beside"):
        located("none.onnx", lock)
    with pytest.raises(ModelFileError, match=r"not the file that the lock was made from"):
        require_file(Path("net.onnx"), file_sha256(work / "net.onnx"))


def test_code_of_its_own_needs_trust(work):
    lock = Lock(Environment.here(), Ingredients(metric="mine:gain"), TRAINED)
    with pytest.raises(ConfigError, match=r"'mine:gain'.*--trust"):
        require_trust(lock, is_trusted=False)
    require_trust(lock, is_trusted=True)
    plain = Lock(Environment.here(), Ingredients(metric="accuracy"), TRAINED)
    require_trust(plain, is_trusted=False)
