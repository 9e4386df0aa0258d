"""The first look at an HTTP request on the client port: whose host, which origin, which path (etcd-api §4.2 to §4.4).

The order is etcd's: old paths are rewritten, hosts are looked at, then origins, OPTIONS ends here, unclean paths are sent on, and the rest
goes to the gateway or to the endpoints.
Must not know: what either of them does.
"""

from collections.abc import Callable, Collection
from html import escape
from typing import Final
from urllib.parse import quote

from raftsched.rpc.gateway.gateway import Gateway
from raftsched.rpc.http2.http_request import Answer, BodySink, HttpRequest
from raftsched.rpc.targets import clean_path, host_of, path_of

TEXT: Final = (("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff"))
GATEWAY_PATHS: Final = "/v3/"
OLD_PATHS: Final = "/v3beta/"
ANY: Final = "*"
UNKNOWN_HOST: Final = """
etcd received your request, but the Host header was unrecognized.

To fix this, choose one of the following options:
- Enable TLS, then any HTTPS request will be allowed.
- Add the hostname you want to use to the whitelist in settings.
  - e.g. etcd --host-whitelist "{host}"

This requirement has been added to help prevent "DNS Rebinding" attacks (CVE-2018-5702).

"""
COMMON_NAME: Final = b"CommonName of client sending a request against gateway will be ignored and not used as expected\n"


class Front:
    """`Engine.on_http`, and by `head` `Engine.on_http_head`, of the client port.

    `endpoints` serves what is not the gateway's; `gateway` None: there is none. `cors` and `hosts` are --cors and --host-whitelist: empty,
    or with "*" in it, allows everything. `names_users()`: whether the common name of a certificate would be taken for a user elsewhere.
    """

    def __init__(
        self,
        endpoints: Callable[[HttpRequest], None],
        *,
        cors: Collection[str] = (ANY,),
        hosts: Collection[str] = (ANY,),
        names_users: Callable[[], bool] = lambda: False,
    ) -> None:
        self.gateway: Gateway | None = None
        self._endpoints = endpoints
        self._cors = frozenset(cors)
        self._hosts = frozenset(hosts)
        self._names_users = names_users

    def head(self, request: HttpRequest) -> BodySink | None:
        """Who takes the body as it comes; None: nobody, `__call__` is to have the request whole."""
        request.extra_headers = self._origin_headers(request)
        path = current(path_of(request.target))
        if self.gateway is None or path is None or not path.startswith(GATEWAY_PATHS):
            return None
        self.gateway.prepare(request)
        return None if self._refusal(request, path) else self.gateway.upload(request, path)

    def __call__(self, request: HttpRequest) -> None:
        path = current(path_of(request.target))
        refused = self._refusal(request, path)
        if refused is not None or path is None:
            request.respond(*(refused or (400, TEXT, b"400 Bad Request\n")))
        elif self.gateway is not None and path.startswith(GATEWAY_PATHS):
            self.gateway.serve(request, path)
        else:
            self._endpoints(request)

    def _refusal(self, request: HttpRequest, path: str | None) -> Answer | None:
        """The answer of who gets no further."""
        if path is None:
            return 400, TEXT, b"400 Bad Request\n"
        host = host_of(request.target, request.header("host") or "")
        if not request.secure and self._hosts and ANY not in self._hosts and host not in self._hosts:
            request.extra_headers = ()
            return 421, TEXT, UNKNOWN_HOST.replace("{host}", host).encode("utf-8", "replace")
        if request.secure and self.gateway is not None and path.startswith(GATEWAY_PATHS) and self._is_named(request):
            request.extra_headers = ()
            return 400, TEXT, COMMON_NAME
        if request.method == "OPTIONS":
            request.extra_headers = () if request.target == ANY else request.extra_headers  # the server itself is asked
            return 200, (), b""
        clean = clean_path(path)
        if self.gateway is not None and clean == GATEWAY_PATHS[:-1]:
            clean = GATEWAY_PATHS
        return None if clean == path or request.method == "CONNECT" else moved(request, clean)

    def _is_named(self, request: HttpRequest) -> bool:
        if not self._names_users():
            return False
        subject = (request.peer_certificate() or {}).get("subject", ())
        return any(key == "commonName" and value for parts in subject for key, value in parts)

    def _origin_headers(self, request: HttpRequest) -> tuple[tuple[str, str], ...]:
        origin = ANY if not self._cors or ANY in self._cors else request.header("origin")
        if origin is None or (origin != ANY and origin not in self._cors):
            return ()
        return (
            ("Access-Control-Allow-Headers", "accept, content-type, authorization"),
            ("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE"),
            ("Access-Control-Allow-Origin", origin),
        )


def current(path: str | None) -> str | None:
    """Paths of the gateway of etcd 3.3 are those of today."""
    return GATEWAY_PATHS + path[len(OLD_PATHS) :] if path is not None and path.startswith(OLD_PATHS) else path


def moved(request: HttpRequest, path: str) -> Answer:
    """There it is. The body is for people."""
    query = request.target.partition("?")[2]
    where = quote(path, safe="/!$&'()*+,;=:@-._~", errors="surrogateescape") + ("?" + query if query else "")
    headers: tuple[tuple[str, str], ...] = (("Location", where),)
    if request.method not in ("GET", "HEAD"):
        return 307, headers, b""
    body = f'<a href="{escape(where)}">Temporary Redirect</a>.\n\n'.encode("utf-8", "replace")
    return 307, (("Content-Type", "text/html; charset=utf-8"), *headers), body
