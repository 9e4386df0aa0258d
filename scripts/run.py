"""`make run`: say where each port is and what to type next, then become the server."""

import os
import sys
from pathlib import Path

from raftsched.cli.goflags import HelpAsked, parse
from raftsched.cli.serve import ALIASES
from raftsched.config import load
from raftsched.config.flags import FLAGS
from raftsched.errors import ConfigError

GUIDE = """
raftsched with its data in {data}

  scheduler API (gRPC)      {scheduler}
  etcd v3 API               {store}
  health                    http://{health}/healthz
  metrics                   {metrics}

In another terminal:

  . .venv/bin/activate
  etcdctl --endpoints={store} put greeting hello
  etcdctl --endpoints={store} get greeting
  raftsched job schedule hello --schedule '@every 1s' --data '{{"text": "hi"}}'{address}
  raftsched job watch{address}

Ctrl-C ends it; `kill -9` does no harm either. Start again and everything is where it was.
"""


def at(host: str, port: int) -> str:
    shown = host if host not in {"", "0.0.0.0", "::"} else "localhost"
    return f"[{shown}]:{port}" if ":" in shown else f"{shown}:{port}"


def guide(words: list[str]) -> str:
    """What to type next; nothing when the options are wrong, for the server says so itself."""
    try:
        config = load(parse(words, FLAGS, ALIASES), os.environ)
    except (ConfigError, HelpAsked):
        return ""
    scheduler = at(config.listen_address, config.port)
    return GUIDE.format(
        data=config.etcd_data_dir,
        scheduler=scheduler,
        store=at(config.etcd_client_listen_address, config.etcd_client_port),
        health=at(config.healthz_listen_address, config.healthz_port),
        metrics=f"http://{at(config.metrics_listen_address, config.metrics_port)}/metrics" if config.enable_metrics else "off",
        address="" if scheduler == "localhost:50006" else f" --address {scheduler}",
    )


if __name__ == "__main__":
    arguments = sys.argv[1:]
    print(guide(arguments), flush=True)
    server = str(Path(sys.executable).with_name("raftsched"))
    os.execv(server, [server, "serve", *arguments])
