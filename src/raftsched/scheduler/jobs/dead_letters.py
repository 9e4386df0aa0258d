"""Dead letters: runs that were given up, as they are stored under raftsched/dead/ (decision 0012), and the names of runs.

Invariant: pure; the names of runs are those of `engine/native/batched.h`. Field numbers: StoredDeadLetter in state.proto.
Must not know: who keeps them, what is done with them.
"""

from raftsched.scheduler.jobs.fields import Instant
from raftsched.scheduler.jobs.names import DEAD
from raftsched.scheduler.jobs.requests import field, number_field


def dead_run(tick: Instant | None, asked: int, partition_id: int) -> bytes:
    """The last part of the key: by the scheduled instant, in its order, and the number of the job; `tick` None: by the revision of the
    request for the run."""
    if tick is None:
        return b"asked-%019d-%016x" % (asked, partition_id)
    return b"%012d.%09d-%016x" % (tick[0], tick[1], partition_id)


def dead_key(composed: bytes, run: bytes) -> bytes:
    return DEAD + composed + b"/" + run


def split_dead_key(key: bytes) -> tuple[bytes, bytes]:
    """(composed name, run)."""
    composed, _, run = key[len(DEAD) :].rpartition(b"/")
    return composed, run


def run_id(composed: bytes, tick: Instant | None, asked: int, partition_id: int, attempt: int) -> bytes:
    """As a worker of raftsched.v1.Workers gets it."""
    instant = b"asked-%d" % asked if tick is None else b"%d.%09d" % tick
    return b"%b/%b/%016x/%d" % (composed, instant, partition_id, attempt)


def _instant(number: int, at: Instant) -> bytes:
    return field(number, number_field(1, at[0]) + number_field(2, at[1]))


def dead_letter(
    tick: Instant | None,
    given_up_ms: int,
    attempts: int,
    error: bytes,
    run: bytes,
    revision: int,
    metadata: bytes | None,
    payload: bytes | None,
    omitted: bool,
    failure_policy: bytes | None,
) -> bytes:
    """A StoredDeadLetter. `error`: a worker's text, made UTF-8 where it is not; `revision`: of the job; None leaves a field out."""
    parts = [] if tick is None else [_instant(1, tick)]
    parts.append(_instant(2, (given_up_ms // 1000, given_up_ms % 1000 * 1_000_000)))
    parts.append(number_field(3, attempts))
    parts.append(field(4, error_text(error).encode()))
    parts.append(field(5, run.decode("utf-8", "replace").encode()))
    parts.append(number_field(6, revision))
    parts += [field(number, value) for number, value in ((7, metadata), (8, payload), (10, failure_policy)) if value is not None]
    if omitted:
        parts.append(number_field(9, 1))
    return b"".join(parts)


def error_text(error: bytes) -> str:
    """What may have been cut within a letter loses that letter."""
    return error.decode("utf-8", "ignore")
