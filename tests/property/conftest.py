"""Property tests: a failure is told within seconds, not after Hypothesis's five minutes of making it smaller."""

from typing import Final

from hypothesis.internal.conjecture import engine

SHRINKING_S_MAX: Final = 20

assert engine.MAX_SHRINKING_SECONDS >= SHRINKING_S_MAX, "Hypothesis has no such bound any more: look for its successor"
engine.MAX_SHRINKING_SECONDS = SHRINKING_S_MAX
