"""Between members: frames, handshake, TLS, connections, requests, bulk streams. docs/internals.md, "Between members"."""
