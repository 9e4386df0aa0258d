"""One incarnation of `raftsched serve --etcd-embed=false`: the scheduler over an etcd that is not ours.

No store, no port for etcd's clients, none for members, no directory: everything durable is in that etcd. Health does not wait for it
(spec/scheduler.md §10.2); it tells when it has been in trouble for a while. Must not know: where an option came from.
"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from raftsched.rpc.metrics import Family
from raftsched.server import Server
from raftsched.store_server import door_families

if TYPE_CHECKING:
    from raftsched.scheduler.bridge.external.kv import ExternalKv


class ExternalServer(Server):
    """As `Server`, whose stop and scheduler port it has."""

    _kv: "ExternalKv | None" = None

    @property
    def ready(self) -> bool:
        """False while results cannot be stored, or etcd has been in trouble for some seconds."""
        if self.failed.done() or not self._listening or self._service is None or self._kv is None:
            return False
        return self._service.healthy and self._kv.healthy

    async def start(self) -> None:
        """Doors first: nobody waits for etcd but those who ask it something. Raises what the parts raise."""
        address = self._address()
        kv = self._kv = self._make_kv()
        kv.start()
        await self._start_scheduler(kv, address)
        self._metrics.current.add(lambda: families(kv))
        self._metrics.current.add(lambda: door_families(self._doors))
        self._listening = True

    def _make_kv(self) -> "ExternalKv":
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its lines are not ours; what matters comes back as an error
        from raftsched.scheduler.bridge.external.kv import ClientFiles, ExternalKv, Target

        etcd = self._config.external
        assert etcd is not None
        return ExternalKv(
            [Target(one.address, one.secure) for one in etcd.endpoints],
            log=self._logs.engine("store"),
            files=ClientFiles(etcd.ca_file, etcd.cert_file, etcd.key_file),
            user=etcd.username,
            password=etcd.password,
        )

    async def stop(self) -> None:
        """The scheduler gives up what it owns, as far as etcd answers; the connections close last."""
        try:
            await super().stop()
        finally:
            if self._kv is not None:
                await self._kv.close()

    @property
    def _reaches_majority(self) -> bool:
        return self._kv is not None and self._kv.reachable


HELP = {
    "raftsched_external_etcd_up": "The external etcd answered the last question, and no alarm stands.",
    "raftsched_external_endpoint_changes_total": "Times another member was turned to.",
    "raftsched_external_calls_repeated_total": "Calls sent again because they were not done, or may be done twice.",
    "raftsched_external_logins_total": "Tokens taken.",
    "raftsched_external_watch_resumes_total": "Times the watch went on where it had broken off.",
    "raftsched_external_watch_lags_total": "Times the watch was given up because its member lagged.",
    "raftsched_external_history_lost_total": "Times all jobs were to be loaded again.",
    "raftsched_external_loads_total": "Loads of all jobs.",
    "raftsched_external_lease_renewals_total": "Answered renewals of the leadership lease.",
    "raftsched_external_lease_renewals_failed_total": "Renewals that were not answered; each is asked again.",
    "raftsched_external_trigger_seconds_left": "Seconds for which this replica may trigger without another renewal.",
    "raftsched_external_writes_total": "Requests written, each counted.",
    "raftsched_external_packs_total": "Transactions that carried several of them.",
    "raftsched_external_known_revision": "Revision up to which all changes were told.",
    "raftsched_external_records": "Jobs held.",
    "raftsched_external_records_bytes": "Bytes of their records.",
}


def families(kv: "ExternalKv") -> Iterator[Family]:
    """What the bridge counts."""
    for name, value in kv.stats().items():
        yield Family(name, "counter" if name.endswith("_total") else "gauge", HELP[name], (), {(): value})
