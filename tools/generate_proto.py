"""Makes hlserve/pb from proto/: descriptor set, stubs, and the .proto files that the wheel ships.

Run from anywhere: ``python tools/generate_proto.py [OUT_DIR]`` (needs grpcio-tools).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO_DIR = ROOT / "proto"
WELL_KNOWN = Path(grpc_tools.__file__).parent / "_proto"


def generate(out: Path) -> list[Path]:
    """Writes the generated files into ``out`` and answers their paths, sorted.

    Raises:
        RuntimeError: protoc refused a file (its own message went to stderr).
    """
    sources = sorted((PROTO_DIR / "hlserve" / "pb").glob("*.proto"))
    out.mkdir(parents=True, exist_ok=True)
    arguments = [
        "protoc",
        f"--proto_path={PROTO_DIR}",
        f"--proto_path={WELL_KNOWN}",
        "--include_imports",
        f"--descriptor_set_out={out / 'descriptors.pb'}",
        f"--pyi_out={out}",
        *(str(source.relative_to(PROTO_DIR)) for source in sources),
    ]
    if protoc.main(arguments) != 0:
        raise RuntimeError(f"protoc failed on {PROTO_DIR}")
    # protoc mirrors the import path; the stubs belong beside the descriptor set.
    for stub in (out / "hlserve" / "pb").glob("*.pyi"):
        stub.replace(out / stub.name)
    shutil.rmtree(out / "hlserve")
    for source in sources:
        shutil.copyfile(source, out / source.name)
    return sorted(
        [out / "descriptors.pb", *out.glob("*_pb2.pyi"), *(out / s.name for s in sources)]
    )


def main() -> None:
    """Generates into hlserve/pb, or into the folder given."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "hlserve" / "pb"
    for path in generate(out):
        print(path)


if __name__ == "__main__":
    main()
