"""Go code of the workflow messages for scripts/go/daprd, from their descriptors in Dapr's SDK for Python. scripts/tools.py runs it with
the interpreter that has that SDK.

    python scripts/durabletask_protos.py DIRECTORY    of the Go module durabletask; files go to its api/protos
"""

import subprocess
import sys
from pathlib import Path

from dapr.ext.workflow._durabletask.internal import backend_service_pb2, orchestrator_service_pb2, runtime_state_pb2
from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto

MODULE = "github.com/dapr/durabletask-go"
GENERATORS = ("google.golang.org/protobuf/cmd/protoc-gen-go", "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.5.1")


def collect(file: FileDescriptor, found: dict[str, FileDescriptorProto]) -> None:
    """`file` after all that it imports, as generators ask for it."""
    for imported in file.dependencies:
        collect(imported, found)
    found[file.name] = FileDescriptorProto()
    file.CopyToProto(found[file.name])


def main(module: Path) -> None:
    files: dict[str, FileDescriptorProto] = {}
    for one in (backend_service_pb2, orchestrator_service_pb2, runtime_state_pb2):
        collect(one.DESCRIPTOR, files)
    names = [name for name in files if not name.startswith("google/")]
    options = ",".join([f"module={MODULE}", *(f"M{name}={MODULE}/api/protos" for name in names)])
    request = CodeGeneratorRequest(file_to_generate=names, parameter=options, proto_file=list(files.values()))
    for generator in GENERATORS:
        command = ["go", "run", generator]
        done = subprocess.run(command, cwd=module.parent, input=request.SerializeToString(), stdout=subprocess.PIPE, check=True)
        answer = CodeGeneratorResponse.FromString(done.stdout)
        if answer.error:
            sys.exit(answer.error)
        for file in answer.file:
            path = module / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.content)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
