"""Generate src/raftsched/pb from proto/: messages, gRPC stubs and their type stubs.

Invariant: the output depends on the .proto files and the pinned generators only, so that a test can compare it with what
is committed. The registration name of each file is its path (raftsched/pb/…), which no other package uses.

    python scripts/generate_proto.py [OUTPUT]     OUTPUT defaults to src; the files land in OUTPUT/raftsched/pb
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"

# The generators guard against runtimes older than themselves. The code they write here uses nothing new, and the lower
# bounds of the package are tested as such (make lower-bounds), so the guards go.
GUARDS = (
    re.compile(
        r"from google\.protobuf import runtime_version as _runtime_version\n|_runtime_version\.ValidateProtobufRuntimeVersion\(.*?\n\)\n",
        re.DOTALL,
    ),
    re.compile(r"GRPC_GENERATED_VERSION = .*?\n    \)\n", re.DOTALL),
    re.compile(r"^GRPC_(?:GENERATED_)?VERSION: str\n", re.MULTILINE),
    re.compile(r"^# Protobuf Python Version: .*\n", re.MULTILINE),
    re.compile(r"^import warnings\n", re.MULTILINE),
)


def generate(output: Path) -> list[Path]:
    """Write every generated file below `output`; their paths. Raises RuntimeError with the generator's words."""
    sources = sorted(str(p.relative_to(PROTO)) for p in PROTO.rglob("*.proto"))
    outputs = [f"--{kind}_out={output}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    plugins = [f"--plugin=protoc-gen-{name}={Path(sys.executable).parent / f'protoc-gen-{name}'}" for name in ("mypy", "mypy_grpc")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", *plugins, *outputs, *sources]
    answer = subprocess.run(command, check=False, capture_output=True, text=True)
    if answer.returncode:
        raise RuntimeError(answer.stderr)
    return [finish(path) for path in wanted(output / "raftsched" / "pb")]


def wanted(folder: Path) -> list[Path]:
    """What protoc wrote, without the stubs of files that define no service; packages get their `__init__`."""
    for stub in [*folder.rglob("*_pb2_grpc.py"), *folder.rglob("*_pb2_grpc.pyi")]:
        source = PROTO / "raftsched" / "pb" / stub.relative_to(folder).with_name(stub.name.partition("_pb2")[0] + ".proto")
        if not re.search(r"^service ", source.read_text(), re.MULTILINE):
            stub.unlink()
    for package in [folder, *(p for p in folder.iterdir() if p.is_dir() and p.name != "__pycache__")]:
        (package / "__init__.py").touch()
    return sorted([*folder.rglob("*_pb2*.py"), *folder.rglob("*_pb2*.pyi"), *folder.rglob("__init__.py")])


def finish(path: Path) -> Path:
    """Drop the version guards of one generated file."""
    text = path.read_text()
    for guard in GUARDS:
        text = guard.sub("", text)
    path.write_text(text)
    return path


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "src")
