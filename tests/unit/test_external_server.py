"""What `raftsched serve --etcd-embed=false` counts is named, explained and documented."""

from pathlib import Path

from raftsched.external_server import HELP, families
from raftsched.scheduler.bridge.external.kv import ExternalKv, Target
from raftsched.testing.fake_etcd import FakeEtcd

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "external-store.md"


class Silent:
    """A log."""

    def info(self, message: str, /, **fields: object) -> None: ...

    debug = warning = error = info


async def test_each_metric_is_told_explained_and_documented() -> None:
    async with FakeEtcd() as fake:
        kv = ExternalKv([Target(fake.address, False)], log=Silent())
        found = {family.name: family for family in families(kv)}
        await kv.close()
    assert found.keys() == HELP.keys()
    assert all(family.kind == ("counter" if name.endswith("_total") else "gauge") for name, family in found.items())
    document = DOCUMENT.read_text()
    assert [name for name in found if f"`{name}`" not in document] == []


async def test_a_replica_without_a_lease_may_not_trigger() -> None:
    async with FakeEtcd() as fake:
        kv = ExternalKv([Target(fake.address, False)], log=Silent())
        assert kv.stats()["raftsched_external_trigger_seconds_left"] == 0
        lease = await kv.lease_grant(20)
        assert 15 < kv.stats()["raftsched_external_trigger_seconds_left"] <= 16
        await kv.lease_revoke(lease)
        assert kv.stats()["raftsched_external_trigger_seconds_left"] == 0
        await kv.close()
