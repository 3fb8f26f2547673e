"""A client generated in JavaScript from our .proto files gets what Python gets."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hlserve.client import InferenceClient
from tests.serving.prediction_models import make_repository
from tests.serving.running import running_server

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "tests" / "clients" / "javascript"
# Once a checkout; a build folder is never in git.
INSTALLED = ROOT / "build" / "javascript-client"


@pytest.fixture(scope="module")
def folder() -> Path:
    """The client beside the packages that it needs."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    lock = SOURCE / "package-lock.json"
    marker = INSTALLED / "installed-lock.json"
    if not marker.exists() or marker.read_bytes() != lock.read_bytes():
        INSTALLED.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(SOURCE / name, INSTALLED)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        try:
            done = subprocess.run(
                command, cwd=INSTALLED, capture_output=True, text=True, timeout=120, check=False
            )
        except subprocess.TimeoutExpired:
            pytest.skip("npm ci did not end: is the registry within reach?")
        if done.returncode:
            pytest.skip(f"npm ci failed: {done.stderr.strip().splitlines()[-1:]}")
        shutil.copy(lock, marker)
    shutil.copy(SOURCE / "client.js", INSTALLED)
    return INSTALLED


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, transport: str) -> Iterator[str]:
    with running_server(
        make_repository(tmp_path_factory.mktemp("models")), transport=transport
    ) as running:
        yield running.address


def test_javascript_gets_what_python_gets(folder: Path, address: str) -> None:
    ran = subprocess.run(
        ["node", "client.js", address, str(ROOT / "proto")],
        cwd=folder,
        env={**os.environ, "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    answers = json.loads(ran.stdout)
    with InferenceClient(address, timeout_s=20) as client:
        _check_arrays(answers, client)
        _check_predictions(answers, client)
    assert answers["refused"][0] == 5  # NOT_FOUND
    assert "model 'absent'" in answers["refused"][1]


def _check_arrays(answers: dict[str, Any], client: InferenceClient) -> None:
    row = np.array([[1.5, -2]], np.float32)
    mine = client.infer("twice", {"input": row}).outputs["y"]
    assert answers["inferred"] == ["one", mine[0].tolist()]
    first, error, last = answers["streamed"]
    assert (first, last) == (["a", [2, 4]], ["c", [6, 8]])
    assert error[0] == "b"
    assert "shape [1, 3]" in error[1]


def _check_predictions(answers: dict[str, Any], client: InferenceClient) -> None:
    asked: dict[str, list[Any]] = {
        "words": ["good food"],
        "table": [{"age": 4, "pain": "yes"}, {"age": None, "pain": "no"}],
    }
    for model, instances in asked.items():
        mine = client.predict(model, instances).predictions
        assert len(answers[model]) == len(mine)
        for theirs, told in zip(answers[model], mine, strict=True):
            assert theirs["label"] == told.label
            assert theirs["probabilities"] == told.probabilities
    first, error, last = answers["predicted"]
    assert (first, last) == ([2, 4], [6, 8])
    assert (error["id"], error["status"]) == ("b", "INVALID_ARGUMENT")
