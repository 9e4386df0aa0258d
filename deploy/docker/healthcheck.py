"""Exit code 0 if the server of this container says that it is well. The port is 8080, or what --healthz-port's variable says."""

import http.client
import os
import sys

TIMEOUT_S = 2.0


def healthy(port: int) -> bool:
    """Whether /healthz answers 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if healthy(int(os.environ.get("RAFTSCHED_HEALTHZ_PORT", "8080"))) else 1)
