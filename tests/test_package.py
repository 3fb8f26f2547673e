"""The package from outside: what an import costs, what the extras bring, what the wheel carries."""

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
OPTIONAL = ["onnx", "onnx_ir", "onnxruntime", "onnxscript", "png", "safetensors"]
OPTIONAL += ["tabulate", "threadpoolctl", "tqdm"]  # the imports of the extra `cpu`
HEAVY = {"grpc", "google", "numpy", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "torch"}


def loaded_modules(statement):
    """Seconds that a statement took in a fresh interpreter, and the top-level modules it loaded."""
    code = (
        "import json, sys, time; start = time.perf_counter()\n"
        f"{statement}\n"
        "seconds = time.perf_counter() - start\n"
        "print(json.dumps([seconds, sorted({name.split('.')[0] for name in sys.modules})]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    seconds, modules = json.loads(done.stdout.splitlines()[-1])
    return seconds, set(modules)


def test_import_hlserve_is_quick_and_imports_nothing_heavy():
    timings = []
    for _ in range(3):  # the best of three: a busy machine must not fail this
        seconds, modules = loaded_modules("import hlserve")
        timings.append(seconds)
        assert modules.isdisjoint(HEAVY)
    assert min(timings) < 0.150


@pytest.mark.parametrize("module", ["hlserve.errors", "hlserve.cli", "compress"])
def test_light_modules_import_nothing_heavy(module):
    assert loaded_modules(f"import {module}")[1].isdisjoint(HEAVY)


def test_trainer_needs_neither_onnx_nor_grpc():
    assert loaded_modules("import hlserve.nn")[1].isdisjoint(HEAVY - {"numpy"})


def test_client_needs_no_onnx():
    modules = loaded_modules("import hlserve.client")[1]
    assert modules.isdisjoint({"onnx", "onnx_ir", "onnxruntime", "onnxscript"})


def test_help_lists_every_verb_in_the_light_client():
    statement = (
        f"for name in {OPTIONAL}: sys.modules[name] = None  # as if it were not installed\n"
        "from hlserve.cli import VERBS, cli, run\n"
        "assert run(cli, ['--help']) == 0\n"
        "assert all(run(cli, [verb, '--help']) == 0 for verb in VERBS)"
    )
    loaded_modules(statement)


def test_help_loads_nothing_heavy():
    statement = "from hlserve.cli import cli, run; assert run(cli, ['--help']) == 0"
    assert loaded_modules(statement)[1].isdisjoint(HEAVY - {"numpy"})


def test_base_names_no_runtime():
    assert not [name for name in PROJECT["dependencies"] if "onnx" in name]
    assert EXTRAS["client"] == []


def test_gpu_is_cpu_with_the_other_runtime_at_the_same_version():
    cpu, gpu = set(EXTRAS["cpu"]), set(EXTRAS["gpu"])
    assert cpu - gpu == {"onnxruntime==1.31.1"}
    assert gpu - cpu == {"onnxruntime-gpu[cuda,cudnn]==1.31.1"}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_pinned_requirement_has_a_hash_and_names_no_index(lock):
    text = lock.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert lines
    for line in lines:
        assert re.match(r"[a-z0-9-]+(\[[a-z,]+\])?==\S+ .*--hash=sha256:[0-9a-f]{64}", line), line


def test_locks_agree_on_every_version():
    versions = {}
    for lock in LOCKS:
        for name, version in re.findall(
            r"^([a-z0-9-]+)(?:\[[a-z,]+\])?==(\S+)", lock.read_text("utf-8"), re.M
        ):
            versions.setdefault(name, set()).add(version)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_every_source_folder_is_a_package():
    files = subprocess.run(
        ["git", "ls-files", "hlserve/*.py", "compress/*.py", "tests/*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    folders = {Path(file).parent for file in files}
    assert [
        str(folder) for folder in folders if not (ROOT / folder / "__init__.py").is_file()
    ] == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A copy of the sources, so that the checkout stays clean, and the names in its wheel."""
    source = tmp_path_factory.mktemp("source")
    for name in (
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "NOTICE",
        "hlserve",
        "compress",
        "models",
    ):
        subprocess.run(["cp", "-r", ROOT / name, source], check=True)
    command = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run(
        [sys.executable, "-m", *command, "--wheel-dir", source / "dist", source], check=True
    )
    (path,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return source, set(archive.namelist())


def test_wheel_carries_exactly_two_packages(wheel):
    top = {name.split("/")[0] for name in wheel[1]}
    assert {name for name in top if not name.endswith(".dist-info")} == {"hlserve", "compress"}


@pytest.mark.parametrize("folder", ["hlserve", "compress"])
def test_wheel_carries_every_source_and_data_file(wheel, folder):
    source, names = wheel
    expected = {
        str(path.relative_to(source))
        for path in (source / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert expected - names == set()
    assert f"{folder}/py.typed" in expected


def test_wheel_carries_the_licences(wheel):
    licences = {name.split(".dist-info/licenses/")[1] for name in wheel[1] if "/licenses/" in name}
    assert {"LICENSE", "NOTICE"} <= licences
    assert "hlserve/datasets/embedded/fashion-mini.LICENSE" in licences
