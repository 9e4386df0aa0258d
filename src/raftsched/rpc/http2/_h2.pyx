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
import socket as socket_module

from raftsched import limits
from raftsched.errors import StatusError
from raftsched.rpc.http2.http1 import Http1Connection, HttpRequest

__all__ = ["Call", "Connection", "Engine", "HttpRequest", "Stream"]

include "_h2/declarations.pxi"
include "_h2/calls.pxi"
include "_h2/engine.pxi"
include "_h2/connection.pxi"
