"""The life of a job between two ticks, as a table. The native engine holds the same one; a test drives every pair through it.

Invariant: a job in flight, staged or committing has exactly one open run, so two runs of one job never overlap.
Must not know: clocks, calendars, the wheel, gRPC.
"""

from enum import IntEnum
from typing import Final


class State(IntEnum):
    """Where a job is. The numbers are those of the native record."""

    IDLE = 0  # nothing to wait for: another replica's, never fires, or undecodable
    ARMED = 1  # in the wheel
    IN_FLIGHT = 2  # queued, sent, or waiting at a gate
    STAGED = 3  # nobody can take it now
    COMMITTING = 4  # its result, or its end, is on the way into the store
    FINISHING = 5  # found finished: its end is to be committed


class Input(IntEnum):
    """What can happen to a job."""

    FIRE = 0
    RESULT = 1
    UNDELIVERABLE = 2
    CONSUMER = 3
    REJECTED = 4
    JOB_CHANGED = 5
    COUNTER_CHANGED = 6
    FOUND_FINISHED = 7
    FINISH_SENT = 8
    LOST = 9
    GAINED = 10


# FIRE takes the job out of the wheel, and only the change that the store sends back lets it in again.
# A run without a consumer is STAGED; waiting is not an attempt, so nothing is counted and nothing is written.
# A changed job or counter wins over everything: the open run is orphaned, and what comes back for it is dropped. A counter changes under a
# run when another replica owned the job for a while, and has gone on.
# What may not fire (paused, frozen) is IDLE, and let go by GAINED; a run that is asked for is a FIRE of its own, and its RESULT ends it.
# REJECTED means that a guard failed: somebody changed job or counter, and that change has been seen already.
TRANSITIONS: Final[dict[tuple[State, Input], State]] = {
    (State.ARMED, Input.FIRE): State.IN_FLIGHT,
    (State.IN_FLIGHT, Input.RESULT): State.COMMITTING,
    (State.IN_FLIGHT, Input.UNDELIVERABLE): State.STAGED,
    (State.STAGED, Input.CONSUMER): State.IN_FLIGHT,
    (State.COMMITTING, Input.REJECTED): State.ARMED,
    (State.FINISHING, Input.FINISH_SENT): State.COMMITTING,
    (State.IDLE, Input.GAINED): State.ARMED,
    (State.ARMED, Input.FOUND_FINISHED): State.FINISHING,
    (State.IDLE, Input.FOUND_FINISHED): State.FINISHING,
    **{(state, Input.JOB_CHANGED): State.ARMED for state in State},
    **{(state, Input.COUNTER_CHANGED): State.ARMED for state in State},
    **{(state, Input.LOST): State.IDLE for state in State},
}
