"""A Kubernetes API of namespaces, over real HTTP/1.1 and TLS: pages, watches in chunks, bookmarks, refusals, versions that are too old.

Each connection is served by a thread of its own. Tests change what it does next; nothing in it waits longer than a test.
"""

import json
import ssl
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from raftsched.testing.authority import Authority

POLL_S = 0.01
NAMESPACES = "/api/v1/namespaces"


@dataclass
class Behaviour:
    """What it does next."""

    refusal: int = 0
    """Answers this to everything."""
    refuse_watch: int = 0
    refuse_get: int = 0
    retry_after: str = ""
    delay_s: float = 0.0
    """Before each answer."""
    drop: bool = False
    """Closes each connection in the midst of the answer."""
    forgets: bool = False
    """Says to each watch, in an event, that its version is too old."""
    expire_pages: int = 0
    """So many further pages are too old."""
    bookmark_s: float = 0.0
    """Between bookmarks of a watch; 0 = none."""
    hide_not_found: bool = False
    """A 404 as of somebody in between."""
    garbage: bytes = b""
    """Instead of any body."""
    dribble: bool = False
    """Watches come byte by byte."""


@dataclass
class FakeKubeApi:
    """`with FakeKubeApi(folder) as api:`; `folder` then is that of a service account, and has a kubeconfig."""

    folder: Path
    names: tuple[str, ...] = ("default", "kube-system")
    token: str = "first-token"
    behaviour: Behaviour = field(default_factory=Behaviour)
    seen: list[str] = field(default_factory=list)
    """Targets that were asked for."""
    watching: int = 0

    def __post_init__(self) -> None:
        self.version = 100
        self.changes: list[tuple[int, str, str]] = []  # version, type, name
        self.lock = threading.Lock()
        self.present = dict.fromkeys(self.names, 1)
        self.cuts = 0  # watches that began before the last cut end
        self.authority = Authority(self.folder / "authority")
        self.authority.issue("server")
        self.set_token(self.token)
        (self.folder / "ca.crt").write_bytes(Path(self.authority.path("ca.crt")).read_bytes())

    # -- what a test does

    def set_token(self, token: str) -> None:
        """The good one, put into the file as the kubelet would."""
        self.token = token
        (self.folder / "token.new").write_text(token + "\n")
        (self.folder / "token.new").replace(self.folder / "token")

    def create(self, name: str) -> None:
        with self.lock:
            self.version += 1
            self.present[name] = self.version
            self.changes.append((self.version, "ADDED", name))

    def delete(self, name: str, *, silently: bool = False) -> None:
        """`silently`: no watch is told."""
        with self.lock:
            self.version += 1
            del self.present[name]
            if not silently:
                self.changes.append((self.version, "DELETED", name))

    def cut(self) -> None:
        """Ends the watches that there are."""
        self.cuts += 1

    def asked(self, part: str) -> int:
        return sum(part in one for one in self.seen)

    @property
    def kubeconfig(self) -> Path:
        path = self.folder / "kubeconfig"
        path.write_text(
            f"""
apiVersion: v1
kind: Config
current-context: here
contexts: [{{name: here, context: {{cluster: fake, user: me}}}}]
clusters: [{{name: fake, cluster: {{server: "https://127.0.0.1:{self.port}", certificate-authority: ca.crt}}}}]
users: [{{name: me, user: {{tokenFile: token}}}}]
"""
        )
        return path

    # -- life

    def __enter__(self) -> Self:
        return self.open()

    def open(self, port: int = 0) -> Self:
        api: FakeKubeApi = self

        class Handler(_Handler):
            fake = api

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.authority.path("server.crt"), self.authority.path("server.key"))
        self.closing = False
        self.server = _Server(("127.0.0.1", port), Handler)
        self.server.context = context
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(POLL_S,), daemon=True)
        self.thread.start()
        return self

    def close(self) -> None:
        self.closing = True
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # they are waited for
    context: ssl.SSLContext

    def finish_request(self, request: Any, client_address: Any) -> None:
        try:
            request.settimeout(10)
            with self.context.wrap_socket(request, server_side=True) as secure:
                super().finish_request(secure, client_address)
        except OSError:
            return  # a client that went, or did not like us


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeKubeApi

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        fake, url = self.fake, urlsplit(self.path)
        now, query = fake.behaviour, {key: values[0] for key, values in parse_qs(url.query).items()}
        fake.seen.append(self.path)
        time.sleep(now.delay_s)
        if self.headers["Authorization"] != f"Bearer {fake.token}":
            self._refuse(401, "Unauthorized", "Unauthorized")
        elif now.refusal:
            self._refuse(now.refusal, "Refused", "namespaces is forbidden: User cannot list resource")
        elif now.garbage:
            self._answer(200, now.garbage)
        elif url.path != NAMESPACES:
            self._one(url.path.removeprefix(NAMESPACES + "/"))
        elif "watch" in query:
            self._watch(int(query["resourceVersion"]), float(query["timeoutSeconds"]), query["allowWatchBookmarks"] == "true")
        else:
            self._page(int(query["limit"]), query.get("continue", ""))

    def _refuse(self, code: int, reason: str, message: str) -> None:
        status = {"kind": "Status", "status": "Failure", "message": message, "reason": reason, "code": code}
        self._answer(code, json.dumps(status).encode())

    def _answer(self, code: int, data: bytes) -> None:
        self.send_response(code)
        if self.fake.behaviour.retry_after:
            self.send_header("Retry-After", self.fake.behaviour.retry_after)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if self.fake.behaviour.drop else data)
        self.close_connection = True

    def _one(self, name: str) -> None:
        if self.fake.behaviour.refuse_get:
            self._refuse(self.fake.behaviour.refuse_get, "Refused", "not now")
        elif name in self.fake.present:
            self._answer(200, json.dumps({"kind": "Namespace", "metadata": {"name": name}}).encode())
        elif self.fake.behaviour.hide_not_found:
            self._answer(404, b"404 page not found")
        else:
            self._refuse(404, "NotFound", f'namespaces "{name}" not found')

    def _page(self, limit: int, after: str) -> None:
        fake = self.fake
        if after and fake.behaviour.expire_pages > 0:
            fake.behaviour.expire_pages -= 1
            self._refuse(410, "Expired", "The provided continue parameter is too old")
            return
        with fake.lock:
            names = sorted(name for name in fake.present if name > after)
            version = str(fake.version)
        rest = {"continue": names[limit - 1]} if len(names) > limit else {}
        items = [{"metadata": {"name": name, "resourceVersion": "1"}} for name in names[:limit]]
        self._answer(200, json.dumps({"kind": "NamespaceList", "metadata": {"resourceVersion": version, **rest}, "items": items}).encode())

    def _watch(self, version: int, timeout_s: float, bookmarks: bool) -> None:
        fake, now, cuts = self.fake, self.fake.behaviour, self.fake.cuts
        if now.refuse_watch:
            self._refuse(now.refuse_watch, "Refused", "too old resource version" if now.refuse_watch == 410 else "cannot watch")
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        fake.watching += 1
        ends, next_bookmark = time.monotonic() + timeout_s, time.monotonic() + now.bookmark_s
        try:
            while time.monotonic() < ends and not fake.closing and cuts == fake.cuts:
                if fake.behaviour.forgets:
                    self._event({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}})
                    break
                for at, kind, name in [one for one in fake.changes if one[0] > version]:
                    self._event({"type": kind, "object": {"metadata": {"name": name, "resourceVersion": str(at)}}})
                    version = at
                if bookmarks and now.bookmark_s and time.monotonic() >= next_bookmark:
                    version, next_bookmark = fake.version, time.monotonic() + now.bookmark_s
                    self._event({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(version)}}})
                time.sleep(POLL_S)
            else:
                self.wfile.write(b"0\r\n\r\n" if not now.drop else b"")
        finally:
            fake.watching -= 1
            self.close_connection = True

    def _event(self, event: dict[str, object]) -> None:
        """A line in two chunks; or each byte in one."""
        line = json.dumps(event).encode() + b"\n"
        step = 1 if self.fake.behaviour.dribble else len(line) // 2
        for start in range(0, len(line), step):
            piece = line[start : start + step]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()
