"""As much of a Kubernetes API server as `helm template --dry-run=server` asks: what there is, and single objects."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

RESOURCES = {"v1": ("persistentvolumeclaims", "PersistentVolumeClaim"), "apps/v1": ("statefulsets", "StatefulSet")}


def listing(version: str) -> dict[str, Any]:
    plural, kind = RESOURCES[version]
    one = {"name": plural, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": ["get"]}
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": [one]}


GROUP = {"groupVersion": "apps/v1", "version": "v1"}
FIXED: dict[str, dict[str, Any]] = {
    "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [{"name": "apps", "versions": [GROUP], "preferredVersion": GROUP}]},
    "/api/v1": listing("v1"),
    "/apis/apps/v1": listing("apps/v1"),
}


class FakeApi:
    """`objects`: by path behind /api/v1/namespaces/<ns>/ or /apis/apps/v1/namespaces/<ns>/; `asked` grows by the paths of objects."""

    def __init__(self, namespace: str, objects: dict[str, dict[str, Any]]) -> None:
        self.asked: list[str] = []
        known = {f"/{root}/namespaces/{namespace}/{path}": one for path, one in objects.items() for root in ("api/v1", "apis/apps/v1")}
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if "/namespaces/" in path:
                    asked.append(path)
                found = FIXED.get(path) or known.get(path)
                body = json.dumps(found or {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404})
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def kubeconfig(self, path: Path) -> Path:
        cluster = {"name": "fake", "cluster": {"server": f"http://127.0.0.1:{self._server.server_address[1]}"}}
        context = {"name": "fake", "context": {"cluster": "fake", "user": "fake"}}
        page = {"apiVersion": "v1", "kind": "Config", "clusters": [cluster], "contexts": [context], "current-context": "fake"}
        path.write_text(json.dumps(page | {"users": [{"name": "fake", "user": {}}]}))
        return path

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
