"""Three honest sizes of a model: as a file, as a packed file, and in memory once loaded."""

from __future__ import annotations

import lzma
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hlserve.nn.param import Array

RUNS = 3  # the median of three fresh processes: one that is disturbed does not count
TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes in bytes.

    Attributes:
        file_bytes: the ONNX file.
        packed_bytes: the file as ``xz -9e`` packs it: what a download or a flash image takes.
        memory_bytes: resident memory that loading it in ONNX Runtime and one run add; None
            where it cannot be measured.
    """

    file_bytes: int
    packed_bytes: int
    memory_bytes: int | None


def sizes(model: bytes, feeds: Mapping[str, Array] | None = None, *, runs: int = RUNS) -> Sizes:
    """The sizes of a serialized model.

    Args:
        model: the ONNX file's content, its weights inside.
        feeds: one batch of rows by input; zeros of one row where there are none.
        runs: fresh processes to measure memory in.
    """
    return Sizes(len(model), packed_bytes(model), memory_bytes(model, feeds, runs=runs))


def packed_bytes(model: bytes) -> int:
    """The size after LZMA2 at its strongest, in the xz container."""
    return len(lzma.compress(model, preset=9 | lzma.PRESET_EXTREME))


def memory_bytes(
    model: bytes, feeds: Mapping[str, Array] | None = None, *, runs: int = RUNS
) -> int | None:
    """Resident memory that a model adds to a process that has ONNX Runtime loaded already.

    Each of the fresh processes first runs a tiny model, so that what the runtime needs once
    is not counted, then loads this one, runs it once, and reads the difference of its resident
    pages. The median is answered; None where the machine does not tell (only Linux does) or
    where the model does not run on the feeds.
    """
    if not Path("/proc/self/statm").exists():
        return None
    with tempfile.TemporaryDirectory(prefix="hlserve-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        for i, (name, array) in enumerate((feeds or {}).items()):
            plain = array.astype(str) if array.dtype == object else array
            np.savez(path.with_name(f"{i}.npz"), name=np.array(name), array=plain)
        found = [_measured(path) for _ in range(runs)]
    known = [value for value in found if value is not None]
    return int(statistics.median(known)) if known else None


def added_memory(path: Path) -> int:
    """What the model at ``path`` adds to this process, in bytes; for a fresh process only."""
    from compress.session import Session, as_dtype

    model = path.read_bytes()
    feeds: dict[str, Array] = {}
    for file in sorted(path.parent.glob("*.npz")):
        with np.load(file, allow_pickle=False) as stored:
            feeds[str(stored["name"])] = stored["array"]
    warm = Session(_TINY)
    warm.run({"x": np.zeros(1, np.float32)})
    before = _resident_bytes()
    session = Session(model)
    ports = session.inputs
    if not feeds:
        sizes_of = {
            p.name: [s if isinstance(s, int) and s > 0 else 1 for s in p.shape] for p in ports
        }
        feeds = {p.name: np.zeros(sizes_of[p.name], p.dtype) for p in ports}
    session.run({p.name: as_dtype(feeds[p.name], p) for p in ports})
    return max(0, _resident_bytes() - before)


# ----- below

# Identity of one float32, opset 13, as ONNX serializes it.
_TINY = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201745a0f0a0178120a0a08080112040a02"
    "0801620f0a0179120a0a08080112040a02080142040a00100d"
)


def _measured(path: Path) -> int | None:
    """One measurement in a fresh process; None where it fails."""
    program = (
        "import sys; from pathlib import Path; from compress.sizes import added_memory; "
        "print(added_memory(Path(sys.argv[1])))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, str(path)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=environment,
            check=True,
        )
        return int(done.stdout)
    except (subprocess.SubprocessError, ValueError):
        return None


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
