# cython: language_level=3
"""The native door: HTTP/2 (libnghttp2) and HTTP/1.1 on one port, as an asyncio protocol.

One Python call per hot path and loop tick with all its requests, one write per connection and tick. The C headers under
native/ know frames and messages; this module joins them to asyncio and to handlers. Everything is on the loop thread.

Invariants: each call is answered at most once and its handler hears of its end exactly once; a handle of a call that is
gone finds nothing; nothing is held for a peer beyond the limits given to `Engine`.
Must not know: what any message means.
"""

import asyncio
import base64
import binascii
import collections
import functools
import socket as socket_module
import ssl as ssl_module
from ssl import SSLError, SSLWantReadError

from raftsched import limits
from raftsched.errors import StatusError
from raftsched.rpc.http2.gzip_messages import inflate
from raftsched.rpc.http2.http1 import LINGER_S, Http1Connection
from raftsched.rpc.http2.http2 import Http2Exchange
from raftsched.rpc.http2.http_request import HttpRequest
from raftsched.rpc.http2.local import LocalCalls
from raftsched.security.tls import words as tls_words

__all__ = ["Call", "Connection", "Engine", "HttpRequest", "Stream", "WebStream"]

include "_h2/declarations.pxi"
include "_h2/calls.pxi"
include "_h2/engine.pxi"
include "_h2/connection.pxi"
include "_h2/packed.pxi"
include "_h2/web.pxi"
include "_h2/unread.pxi"
