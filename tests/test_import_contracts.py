"""The import contracts hold, and each of them fails when it is broken on purpose."""

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINT = "from importlinter.cli import lint_imports_command as lint; lint()"
CONTRACTS = configparser.ConfigParser()
CONTRACTS.read(ROOT / ".importlinter")

# contract -> (file, line to add) pairs; a file that is not there is made.
BREACHES = [
    ("hlserve", "hlserve/utils.py", ""),
    ("hlserve", "hlserve/errors.py", "import hlserve.codec"),
    ("hlserve", "hlserve/nn/param.py", "import hlserve.serving"),
    ("hlserve", "hlserve/client/__init__.py", "import hlserve.nn"),
    ("hlserve", "hlserve/repository.py", "import hlserve.cli"),
    ("hlserve", "hlserve/frontend/words.py", "import hlserve.datasets"),
    ("serving", "hlserve/serving/session.py", "import hlserve.serving.store"),
    ("serving", "hlserve/serving/dataplane.py", "import hlserve.serving.transports"),
    (
        "transports",
        "hlserve/serving/transports/http2/__init__.py",
        "import hlserve.serving.transports.grpcio",
    ),
    ("batching", "hlserve/serving/batching/queue.py", "import hlserve.serving.batching.batcher"),
    ("client", "hlserve/client/asks.py", "import hlserve.client.sync"),
    ("nn", "hlserve/nn/layer.py", "import hlserve.nn.trainer"),
    ("nn", "hlserve/nn/common.py", ""),
    ("compress", "compress/session.py", "import compress.export"),
    ("compress", "compress/pruning/__init__.py", "import compress.quantization"),
    ("compress-from-cli", "hlserve/repository.py", "import compress"),
    ("compress-from-cli", "hlserve/nn/network.py", "from compress import export"),
    ("compress-apart-from-serving", "compress/export.py", "import hlserve.serving"),
    ("compress-apart-from-serving", "compress/export.py", "import hlserve.codec"),
    ("nn-is-numpy", "hlserve/nn/network.py", "import onnx"),
    ("nn-is-numpy", "hlserve/nn/network.py", "import hlserve.pb.messages"),
    ("grpc-at-the-edge", "hlserve/serving/dataplane.py", "import grpc"),
    ("onnx-where-it-is-the-job", "hlserve/repository.py", "import onnxruntime"),
    ("never", "hlserve/nn/checkpoint.py", "import pickle"),
]


def lint(root):
    """The names of the broken contracts, and what the linter said."""
    done = subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache", "--config", str(ROOT / ".importlinter")],
        cwd=root,
        env={**os.environ, "COLUMNS": "200", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    broken = set(re.findall(r"^(.+) BROKEN\b", done.stdout, re.M))
    return broken, done.stdout + done.stderr


def name_of(contract):
    return CONTRACTS[f"importlinter:contract:{contract}"]["name"]


@pytest.fixture
def copy(tmp_path):
    """A copy of both packages' sources."""
    for package in ("hlserve", "compress"):
        ignore = shutil.ignore_patterns("__pycache__", "embedded")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignore)
    return tmp_path


def test_every_contract_is_kept(copy):
    broken, said = lint(copy)
    assert "Contracts: " in said, said
    assert broken == set(), said


@pytest.mark.parametrize(("contract", "file", "line"), BREACHES)
def test_breach_is_caught(copy, contract, file, line):
    path = copy / file
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as source:
        source.write(f"\n{line}\n")
    broken, said = lint(copy)
    assert name_of(contract) in broken, said


def test_every_contract_has_a_breach():
    sections = [name for name in CONTRACTS.sections() if ":contract:" in name]
    contracts = {name.rpartition(":")[2] for name in sections}
    assert contracts == {contract for contract, _, _ in BREACHES}
