"""A Kubernetes API that knows one StatefulSet, and the service account of a pod that asks it, for what reads a scale."""

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import trustme


class KubernetesApi:
    """`environment` is what a pod finds; `code` and `body` are the next answers; `seen` the paths asked for and the tokens."""

    def __init__(self, folder: Path) -> None:
        """`folder` becomes the directory of the service account."""
        self.code, self.body, self.seen = 200, b"", [("", "")]
        self.scale(3)
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                api.seen.append((self.path, self.headers["Authorization"]))
                self.send_response(api.code)
                self.send_header("Content-Length", str(len(api.body)))
                self.end_headers()
                self.wfile.write(api.body)

            def log_message(self, *_: Any) -> None:
                pass

        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.folder = folder
        authority.cert_pem.write_to_path(str(folder / "ca.crt"))
        (folder / "namespace").write_text("dapr-system\n")
        (folder / "token").write_text("secret")
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.port)}

    def scale(self, replicas: object, **spec: object) -> None:
        self.body = json.dumps({"kind": "StatefulSet", "spec": {"replicas": replicas, **spec}}).encode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.server.shutdown()
        self.server.server_close()
