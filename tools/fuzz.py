"""Fuzzes our HTTP/2 transport, guided by coverage; needs atheris: `make fuzz` has it.

With PYTHONPATH=. in the environment:

python tools/fuzz.py --seconds 1200  # every target its share
python tools/fuzz.py --seconds 60 --target frames
python tools/fuzz.py --keep  # put the fewest inputs that reach as much into tests/fuzz/corpus

Inputs that reach something new grow in `build/fuzz/<target>`; what fails is kept in
`build/fuzz/failed`, and fails again by `python tools/fuzz.py --target frames --input FILE`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "tests" / "fuzz" / "corpus"
GROWN = ROOT / "build" / "fuzz"
FAILED = GROWN / "failed"
NAMES = ("frames", "header_blocks", "grpc_messages", "infer_requests", "infer_answers", "calls")
FUZZED = ("hlserve.serving.transports", "hlserve.codec", "hlserve.datatypes", "hpack")
_WATCHED = tuple(part.replace(".", "/") for part in FUZZED)
_MAX_KEPT_BYTES = 4096  # of one input: what is longer says the same at length
_LIBFUZZER = (
    f"-max_len={_MAX_KEPT_BYTES}",
    "-timeout=10",  # seconds that one input may take
    "-rss_limit_mb=1024",
    "-print_final_stats=1",
)


def main() -> int:
    """0: nothing failed."""
    arguments = _arguments()
    if arguments.input is not None:
        _target(arguments.target)(arguments.input.read_bytes())
        return 0
    names = NAMES if arguments.target is None else (arguments.target,)
    if arguments.keep:
        for name in names:
            _keep(name)
        return 0
    if arguments.here:
        return _fuzz_here(names[0], arguments.seconds)
    failed = [name for name in names if _fuzz(name, arguments.seconds // len(names))]
    for path in sorted(FAILED.glob("*")):
        print(f"failed: {path.relative_to(ROOT)}")
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=1200, help="of all targets together")
    parser.add_argument("--target", choices=NAMES)
    parser.add_argument("--input", type=Path, help="run one input of --target, without atheris")
    parser.add_argument("--keep", action="store_true", help="choose the inputs to commit")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.input is not None and arguments.target is None:
        parser.error("--input came without --target, which says what reads it")
    return arguments


def _target(name: str) -> Callable[[bytes], None]:
    from tests.fuzz.targets import TARGETS

    return TARGETS[name]


def _fuzz(name: str, seconds: int) -> int:
    """In a process of its own, which libFuzzer ends; how it ended."""
    print(f"{name}: {seconds} s", flush=True)
    command = [sys.executable, __file__, "--here", "--target", name, "--seconds", str(seconds)]
    return subprocess.run(
        command, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)}
    ).returncode


def _fuzz_here(name: str, seconds: int) -> int:
    import atheris  # type: ignore[import-not-found,unused-ignore]  # not of the test set

    grown, kept = GROWN / name, KEPT / name
    for folder in (grown, kept, FAILED):
        folder.mkdir(parents=True, exist_ok=True)
    with atheris.instrument_imports(include=list(FUZZED)):
        target = _target(name)
    atheris.Setup(
        [
            sys.argv[0],
            str(grown),
            str(kept),
            f"-max_total_time={seconds}",
            f"-artifact_prefix={FAILED / name}-",
            *_LIBFUZZER,
        ],
        target,
    )
    atheris.Fuzz()
    return 0


def _keep(name: str) -> None:
    """What failed once, and the shortest, each with steps over three lines that no other took."""
    target, seen, kept = _target(name), set[Any](), KEPT / name
    inputs = {
        path.name: path.read_bytes() for folder in (kept, GROWN / name) for path in folder.glob("*")
    }
    kept.mkdir(parents=True, exist_ok=True)
    chosen = {}
    for file, data in sorted(inputs.items(), key=lambda item: (len(item[1]), item[0])):
        steps = _steps(target, data) - seen
        failed_once = "crash" in file and (kept / file).exists()
        if failed_once or (steps and len(data) <= _MAX_KEPT_BYTES):
            seen |= steps
            chosen[file] = data
    for path in kept.glob("*"):
        path.unlink()
    for file, data in chosen.items():
        (kept / file).write_bytes(data)
    size = sum(map(len, chosen.values()))
    print(f"{name}: {len(chosen)} of {len(inputs)} inputs, {size} bytes, {len(seen)} steps")


def _steps(target: Callable[[bytes], None], data: bytes) -> set[tuple[CodeType, int, int, int]]:
    """Each two steps from a line to the next, in the code that is fuzzed."""
    steps: set[tuple[CodeType, int, int, int]] = set()

    def enter(frame: FrameType, _event: str, _arg: object) -> Any:
        code = frame.f_code
        if not any(part in code.co_filename for part in _WATCHED):
            return None
        before = last = 0

        def step(frame: FrameType, event: str, _arg: object) -> Any:
            nonlocal before, last
            if event == "line":
                steps.add((code, before, last, frame.f_lineno))
                before, last = last, frame.f_lineno
            return step

        return step

    sys.settrace(enter)
    try:
        target(data)
    finally:
        sys.settrace(None)
    return steps


if __name__ == "__main__":
    sys.exit(main())
