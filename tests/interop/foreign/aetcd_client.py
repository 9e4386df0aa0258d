"""What programs do with aetcd."""

import asyncio
import sys

import aetcd


async def main(host: str, port: int) -> None:
    async with aetcd.Client(host=host, port=port) as client:
        await client.put(b"aetcd/a", b"1")
        assert (await client.get(b"aetcd/a")).value == b"1"
        assert await client.get(b"aetcd/none") is None
        lease = await client.lease(60)
        await client.put(b"aetcd/b", b"2", lease=lease)
        found = await client.get_prefix(b"aetcd/")
        assert [one.value for one in found] == [b"1", b"2"]
        print("keys")
        done, _ = await client.transaction(
            compare=[client.transactions.value(b"aetcd/a") == b"1"],
            success=[client.transactions.put(b"aetcd/a", b"3"), client.transactions.get(b"aetcd/a")],
            failure=[],
        )
        assert done
        assert await client.replace(b"aetcd/a", b"3", b"4")
        assert not await client.replace(b"aetcd/a", b"3", b"5")
        print("transactions")
        watch = await client.watch_prefix(b"aetcd/w")
        for value in (b"1", b"2"):
            await client.put(b"aetcd/w", value)
        await client.delete(b"aetcd/w")
        kinds = []
        async for event in watch:
            kinds.append(event.kind)
            if len(kinds) == 3:
                break
        await watch.cancel()
        assert [str(kind).rpartition(".")[2] for kind in kinds] == ["PUT", "PUT", "DELETE"], kinds
        print("watch")
        assert (await client.get_lease_info(lease.id)).grantedTTL == 60
        await client.refresh_lease(lease.id)
        await client.revoke_lease(lease.id)
        assert await client.get(b"aetcd/b") is None
        print("leases")
        async with client.lock(b"aetcd/lock", ttl=10) as lock:
            assert await lock.is_acquired()
        print("locks")
        assert (await client.status()).version == "3.7.1"
        assert len([one async for one in client.members()]) in {1, 3}
        await client.delete_prefix(b"aetcd/")
        print("cluster")


asyncio.run(main(sys.argv[1].partition(":")[0], int(sys.argv[1].partition(":")[2])))
