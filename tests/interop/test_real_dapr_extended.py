"""What a real Dapr Scheduler makes of schedules of the extended dialect (docs/schedules.md, decision 0013)."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from dapr_pair import Pair, pair, schedule_request
from real_dapr import dapr_scheduler
from serving import wait_for

KEY = b"dapr/jobs/app||ns||app||a"


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[Pair]:
    with pair(dapr_scheduler(), tmp_path) as made:
        yield made


def test_it_refuses_them_and_ends_when_it_finds_one(sides: Pair) -> None:
    """So jobs with such schedules go before a Dapr Scheduler comes: the page says it, and this is why."""
    theirs, ours = sides.answers("ScheduleJob", schedule_request("a", schedule="DIALECT=extended 0 9 LBD * *"))
    wanted = 'job failed validation: failed to parse int from DIALECT=extended: strconv.Atoi: parsing "DIALECT=extended": invalid syntax'
    assert (theirs.code, theirs.text) == ("UNKNOWN", wanted)
    assert ours.code == "OK"
    record = sides.ours.stored()[KEY]
    assert b"DIALECT=extended 0 9 LBD * *" in record, "stored as it was given"
    with suppress(grpc.RpcError):  # it may be gone before it has answered
        sides.theirs.put(KEY, record)
    fatal = "Fatal error running scheduler: failed to parse int from DIALECT=extended"
    wait_for(lambda: fatal in sides.theirs.server.stdout_path.read_text(), 30, "the real one goes on")
