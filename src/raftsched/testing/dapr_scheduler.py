"""The Dapr Scheduler itself over an etcd that is not its own, as a child process; and who starts it again when it ends."""

import threading
from collections.abc import Sequence
from pathlib import Path

from raftsched.testing.external import ExternalScheduler
from raftsched.testing.process import ServerProcess

LOOK_S = 0.1
TAIL_BYTES = 2000


class DaprScheduler(ExternalScheduler):
    """One replica of Dapr's; `program`: its executable."""

    def __init__(
        self, program: Path, directory: Path, endpoints: Sequence[str], *, name: str = "dapr-scheduler-server-0", args: Sequence[str] = ()
    ) -> None:
        super().__init__(directory, endpoints, name=name, args=args)
        flags = self.command[self.command.index("serve") + 1 :]
        self.command = [str(program), *flags, f"--identity-directory-write={directory / 'identity'}"]


class Keeper(threading.Thread):
    """Starts a scheduler again whenever its process has ended, as Kubernetes does with a container. A context manager.

    Whoever stops the scheduler on purpose leaves the context first.
    """

    def __init__(self, scheduler: ExternalScheduler) -> None:
        super().__init__(name=f"keeper-{scheduler.name}", daemon=True)
        self._scheduler = scheduler
        self._stopping = threading.Event()
        self.ends: list[str] = []
        """What it said last, of each time that it ended by itself."""

    def run(self) -> None:
        one = self._scheduler
        while not self._stopping.wait(LOOK_S):
            if one.process is not None and one.process.poll() is not None:
                self.ends.append(f"ended with {one.process.returncode}\n{one.logs(TAIL_BYTES)}")
                one.process = None
                one.start(wait=False)

    def __enter__(self) -> "Keeper":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self.join()


class EmbeddedDaprScheduler(ServerProcess):
    """One replica of Dapr's over its own etcd; `program`: its executable."""

    def __init__(self, program: Path, directory: Path, *, args: Sequence[str] = ()) -> None:
        super().__init__(directory, args=args)
        flags = self.command[self.command.index("serve") + 1 :]
        self.command = [str(program), *flags, f"--identity-directory-write={directory / 'identity'}"]
