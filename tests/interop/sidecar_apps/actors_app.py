"""What programs do with actors in Dapr's Python SDK: an app that hosts them, which remind themselves, and a client that calls them."""

import asyncio
import sys
import threading
import time
from datetime import timedelta

import uvicorn
from dapr.actor import Actor, ActorId, ActorInterface, ActorProxy, Remindable, actormethod
from dapr.clients import DaprClient
from dapr.ext.fastapi import DaprActor
from dapr.proto.runtime.v1.actors_pb2 import ListActorRemindersRequest, UnregisterActorRemindersByTypeRequest
from fastapi import FastAPI

WAIT_S = 60.0
SETTLE_S = 3.0
reminded: list[tuple[str, str, bytes]] = []


class ClockInterface(ActorInterface):
    @actormethod(name="Wind")
    async def wind(self, order: object) -> None: ...

    @actormethod(name="Stop")
    async def stop(self, name: str) -> None: ...


class Clock(Actor, ClockInterface, Remindable):
    async def wind(self, order: object) -> None:
        assert isinstance(order, dict)
        due, period = timedelta(seconds=order["due"]), timedelta(seconds=order["period"])
        await self.register_reminder(order["name"], order["name"].encode(), due, period)

    async def stop(self, name: str) -> None:
        await self.unregister_reminder(name)

    async def receive_reminder(self, name: str, state: bytes, due_time: timedelta, period: timedelta, ttl: timedelta | None = None) -> None:
        reminded.append((self.id.id, name, state))


def count(actor: str, name: str) -> int:
    assert all(state == name.encode() for one, of, state in reminded if (one, of) == (actor, name)), reminded
    return sum((one, of) == (actor, name) for one, of, _ in reminded)


async def until(actor: str, name: str, times: int) -> None:
    end = time.monotonic() + WAIT_S
    while count(actor, name) < times:
        assert time.monotonic() < end, reminded
        await asyncio.sleep(0.05)


async def run() -> None:
    one = ActorProxy.create("Clock", ActorId("one"), ClockInterface)
    await one.Wind({"name": "tick", "due": 1, "period": 1})
    await until("one", "tick", 3)
    await one.Stop("tick")
    await asyncio.sleep(1)
    seen = count("one", "tick")
    await asyncio.sleep(SETTLE_S)
    assert count("one", "tick") == seen
    print("reminders", flush=True)
    for number in range(20):
        await ActorProxy.create("Clock", ActorId(f"many-{number}"), ClockInterface).Wind({"name": "all", "due": 2, "period": 1})
    print("fault", flush=True)  # whoever started this may kill a scheduler now
    await asyncio.sleep(SETTLE_S)
    began = {number: count(f"many-{number}", "all") for number in range(20)}
    for number in range(20):
        await until(f"many-{number}", "all", began[number] + 3)
    print("many", flush=True)
    with DaprClient() as client:
        stub = client._stub  # the SDK has no method for these two
        told = stub.ListActorReminders(ListActorRemindersRequest(actor_type="Clock")).reminders
        assert sorted(one.reminder.actor_id for one in told) == sorted(f"many-{number}" for number in range(20)), told
        stub.UnregisterActorRemindersByType(UnregisterActorRemindersByTypeRequest(actor_type="Clock", actor_id="many-3"))
        assert len(stub.ListActorReminders(ListActorRemindersRequest(actor_type="Clock")).reminders) == 19
        stub.UnregisterActorRemindersByType(UnregisterActorRemindersByTypeRequest(actor_type="Clock"))
        assert not stub.ListActorReminders(ListActorRemindersRequest(actor_type="Clock")).reminders
    await asyncio.sleep(1)
    seen = len(reminded)
    await asyncio.sleep(SETTLE_S)
    assert len(reminded) == seen
    print("lists", flush=True)


async def main(port: int) -> None:
    app = FastAPI()
    actors = DaprActor(app)
    await actors.register_actor(Clock)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    threading.Thread(target=server.run, daemon=True).start()
    end = time.monotonic() + WAIT_S
    while True:
        try:
            await ActorProxy.create("Clock", ActorId("first"), ClockInterface).Stop("nothing")
            break
        except Exception:  # the sidecar is not there yet, or does not know the type
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.5)
    await run()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
