"""Compiles serving's hot path with mypyc where HLSERVE_COMPILE=1 is set; else all is pure Python.

An experiment: docs/transports.md tells what it saves, and why nothing published is compiled.
Everything else of the build is pyproject.toml.
"""

import os
from pathlib import Path

from setuptools import setup

# Whole packages, less what mypyc cannot compile: async generators, classes whose base class comes
# from elsewhere, and classes of exceptions, which mypyc 2.4 frees without a word to the weak
# references that there are to them.
_FOLDERS = ("hlserve/serving/batching", "hlserve/serving/transports/http2")
_NOT = {"__init__", "eager_call", "frames", "grpc_status", "protocol", "server", "streaming", "tls"}
_MORE = (
    "hlserve/serving/call_record.py",
    "hlserve/serving/dataplane.py",
    "hlserve/serving/inference.py",
    "hlserve/serving/model.py",
    "hlserve/serving/request.py",
    "hlserve/serving/statistics.py",
    "hlserve/serving/switchboard.py",
    "hlserve/serving/turn.py",
    "hlserve/serving/uses.py",
    "hlserve/serving/session.py",
    "hlserve/serving/store.py",
    "hlserve/serving/logs.py",
    "hlserve/serving/metrics.py",
    "hlserve/serving/tracing.py",
    "hlserve/serving/transports/admission.py",
    "hlserve/serving/transports/authorization.py",
    "hlserve/serving/transports/context.py",
    "hlserve/serving/transports/entry.py",
    "hlserve/serving/transports/plain_infer.py",
    "hlserve/serving/transports/stage.py",
)


def _sources() -> list[str]:
    found = [path for folder in _FOLDERS for path in sorted(Path(folder).glob("*.py"))]
    return [str(path) for path in found if path.stem not in _NOT] + list(_MORE)


# The types of what is not installed beside the compiler are not known; `make types` knows them all.
_CHECKS = (
    "--ignore-missing-imports",
    "--follow-imports=silent",
    "--no-warn-unused-ignores",
    "--no-warn-return-any",
)

if os.environ.get("HLSERVE_COMPILE") == "1":
    from mypyc.build import mypycify

    setup(
        ext_modules=mypycify([*_sources(), *_CHECKS], opt_level="3", debug_level="0"),
        setup_requires=["mypy>=1.19", "hpack>=4.1", "numpy>=2.0", "types-protobuf"],
    )
else:
    setup()
