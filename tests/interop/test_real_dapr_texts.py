"""Schedules, due times and times to live of any kind beside the Dapr Scheduler itself: what is taken, what is refused and with which text,
and the instants that are stored.

Random, of pieces that parsers stumble over; RAFTSCHED_DIFFERENTIAL_SEED: other texts. Left out is what the real one does not survive
(docs/dapr-compatibility.md).
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from amounts import SEED, Record
from dapr_pair import Answer, Pair, different, pair, schedule_request
from real_dapr import dapr_scheduler

pytestmark = pytest.mark.process
REQUESTS = 2_000
NAMES = 50  # jobs: each is put over an older one
SPINS = ("never fires", "must not be negative")
"""Refused by us; the real one would be busy with it for ever."""
HOST = ("unknown time zone", "too many time zones")
"""The real one says what reading the host's file said."""


def words(text: str) -> list[str]:
    return text.split()


FIELDS = words(
    "* * * * ? 0 1 5 7 12 23 24 29 30 31 32 59 60 99 -1 jan DEC mon SUN Sat feb xyz 1-5 5-1 */5 */0 1/2 1-10/3 / - 1- -5 1--2 1/2/3 "
    "1-2-3 */-1 */* 1,2,3 1,,2 , mon-fri FRI-MON 1,* *-5 ?/2 0x1 1e3 L W 5L 1#2 01 007 +1 1 99999999999999999999 2147483648 é"
)
LENGTHS = words(
    "1s 100ms 1h 1.5h -1s 0 0s 1 s 1h1m 1m1h .5s 5.s .s 1us 1µs 1μs 1ns 9223372036854775807ns 9223372036854775808ns 2562047h 2562048h "
    "1d 1w +5s --1s 1e3s 0x1s 1.5.5s 1h-1m 999999999999999999999s 0.000000000000000000000000001h 1S 1H 00001s 10000000h"
)
CALENDAR = words(
    "PT1S P1D P1W P1M P1Y P1Y2M3W4DT5H6M7S PT P P1 PT1 1Y PT1.5S P1DT P-1D -P1D pt1s PT1s P1H PT1D P1M1Y PT1S1H R1/PT1S R5/PT1S "
    "R0/PT1S R/PT1S R-1/PT1S R2/1s R2/ R2 R99999999999/P1D R1/2099-01-01T00:00:00Z P1YT PT36H P1000000Y PT0S P0D P1W1D PT1M "
    "PT9223372036854775807H TP1D"
)
INSTANTS = words(
    "2099-01-01T00:00:00Z 2099-01-01T00:00:00z 2099-01-01t00:00:00Z 2099-01-01T00:00:00 2099-01-01T00:00:00+01:00 "
    "2099-01-01T00:00:00-23:59 2099-01-01T00:00:00+24:00 2099-01-01T00:00:00+0100 2099-13-01T00:00:00Z 2099-02-30T00:00:00Z "
    "2096-02-29T00:00:00Z 2100-02-29T00:00:00Z 2099-01-01T24:00:00Z 2099-01-01T23:59:60Z 2099-01-01T00:00:00.1Z "
    "2099-01-01T00:00:00.123456789Z 2099-01-01T00:00:00.1234567891Z 2099-01-01T00:00:00,5Z 2099-01-01T00:00:00.Z 99-01-01T00:00:00Z "
    "10000-01-01T00:00:00Z 9999-12-31T23:59:59.999999999Z 2099-1-1T0:0:0Z 9999-12-31T23:59:59-23:00 2099-01-01T0:00:00Z 2099-01-01 "
    "2099-01-01T00:00Z 2099-01-01T00:00:00+1:00 2099-01-01T00:00:00+01:60 2020-01-01T00:00:00Z 0001-01-01T00:00:00Z "
    "0000-01-01T00:00:00Z 1970-01-01T00:00:00Z 1969-12-31T23:59:59.5Z 1677-01-01T00:00:00Z"
)
ZONES = words(
    "UTC Local Europe/Berlin America/New_York Asia/Kolkata Mars/Phobos ../etc/passwd /etc/passwd europe/berlin EST GMT+1 Etc/GMT-14"
)
DESCRIPTORS = words("@yearly @annually @monthly @weekly @daily @midnight @hourly @reboot @ @Daily @every @EVERY")


class Texts:
    """A stream of jobs, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)

    def job(self) -> dict[str, Any]:
        chance, fields = self._chance, {}
        if chance.random() < 0.7:
            fields["schedule"] = self._schedule() if chance.random() < 0.7 else "@yearly"
        if chance.random() < 0.4:
            fields["due_time"] = self._moment()
        if chance.random() < 0.3:
            fields["ttl"] = self._moment()
        if chance.random() < 0.15:
            fields["repeats"] = chance.choice((0, 1, 2, 5))
        return fields

    def _schedule(self) -> str:
        chance, kind = self._chance, self._chance.random()
        if kind < 0.5:
            count = 6 if chance.random() < 0.85 else chance.randrange(9)
            items = [chance.choice(FIELDS) if chance.random() < 0.5 else "*" for _ in range(count)]
            text = chance.choice((" ", " ", "  ", "\t", "\u00a0")).join(items)
        elif kind < 0.65:
            text = chance.choice(DESCRIPTORS) + chance.choice(("", "", "", " ", " 1h"))
        elif kind < 0.85:
            text = "@every " + chance.choice(LENGTHS)
        else:
            text = chance.choice(("", "  ", "* * * * *", "0 0 0 1 1 *", "x", "\u3000"))
        if chance.random() < 0.25:
            prefix, space = chance.choice(("TZ=", "CRON_TZ=", "tz=", "TZ= ", "CRON_TZ")), chance.choice((" ", "  ", "\t", ""))
            text = f"{prefix}{chance.choice(ZONES)}{space}{text}"
        return self._bent(text) if chance.random() < 0.25 else text

    def _moment(self) -> str:
        text = self._chance.choice(self._chance.choice((LENGTHS, CALENDAR, INSTANTS)))
        return self._bent(text) if self._chance.random() < 0.3 else text

    def _bent(self, text: str) -> str:
        """With one to three characters more, fewer, others, or changed about."""
        chance, letters = self._chance, list(text)
        for _ in range(chance.randrange(1, 4)):
            at, way = chance.randrange(len(letters) + 1), chance.randrange(4)
            letter = chance.choice("0123456789*/-,?@ TZ=PYMWDHSsmhd.:+\t\u00a0éµ\x00")
            if way == 0:
                letters.insert(at, letter)
            elif way == 1:
                del letters[at : at + 1]
            elif way == 2:
                letters[at : at + 1] = [letter]
            else:
                letters[at : at + 2] = reversed(letters[at : at + 2])
        return "".join(letters)


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair(dapr_scheduler(), tmp_path_factory.mktemp("texts")) as made:
        yield made


def host_specific(ours: Answer, theirs: Answer) -> bool:
    """A zone that is none: both name it and refuse."""
    text = "job failed validation: provided bad location "
    return any(word in ours.text for word in HOST) and theirs.code == "UNKNOWN" and theirs.text.startswith(text)


def test_random_texts(sides: Pair, record_property: Record) -> None:
    texts, taken = Texts(SEED), 0
    for number in range(REQUESTS):
        made = schedule_request(f"j{number % NAMES}", overwrite=True, **texts.job())
        body = made.SerializeToString()
        ours = sides.ours.call("ScheduleJob", body)
        if any(word in ours.text for word in SPINS):
            continue
        theirs = sides.theirs.call("ScheduleJob", body)
        sides.compared += 1
        assert ours == theirs or host_specific(ours, theirs), f"{made.job}\ntheirs: {theirs}\nours:   {ours}"
        taken += ours.code == "OK"
        if number % NAMES == NAMES - 1:
            same_records(sides)
    assert taken > REQUESTS / 20
    record_property("compared", sides.compared)


def same_records(sides: Pair) -> None:
    """Of the jobs that both have: one whose end has come goes at its owner's leisure."""
    theirs, ours = (side.stored(b"dapr/jobs/") for side in sides.sides)
    for key in theirs.keys() & ours.keys():
        sides.compared += 1
        assert (difference := different(theirs[key], ours[key])) is None, f"{key!r}: {difference}"
    gone = theirs.keys() ^ ours.keys()
    assert len(gone) < NAMES / 5, gone


def test_texts_that_are_known_to_differ(sides: Pair, tmp_path: Path) -> None:
    """So that this is told when it changes: years that seconds cannot count, and files that are no zone."""
    for fields in ({"due_time": "P999999999999Y"}, {"schedule": "TZ=Europe @daily"}, {"schedule": "TZ=. @daily"}):
        theirs, ours = sides.answers("ScheduleJob", schedule_request("differs", overwrite=True, **fields))
        assert theirs != ours
        assert ours.code == "UNKNOWN"
