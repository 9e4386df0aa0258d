"""Who takes the answers of the node's own proposals."""

import asyncio
from collections.abc import Callable, Sequence

from raftsched.types import Result


class Nobody:
    """Takes answers that nobody waits for."""

    def on_results(self, tokens: Sequence[int], results: Sequence[Result]) -> None:
        pass


class Waiter:
    """The error of one answer, for who awaits it."""

    def __init__(self, future: "asyncio.Future[int]") -> None:
        self._future = future

    def on_results(self, tokens: Sequence[int], results: Sequence[Result]) -> None:
        if not self._future.done():
            self._future.set_result(results[0][0])


class Revocations:
    """Of expired leases: what did not get through is named again."""

    def __init__(self, retry: Callable[[int], None]) -> None:
        self._retry = retry

    def on_results(self, tokens: Sequence[int], results: Sequence[Result]) -> None:
        for lease, (error, _, _) in zip(tokens, results, strict=True):
            if error:
                self._retry(lease)


class CompactionEnd:
    def __init__(self, done: Callable[[int, int], None]) -> None:
        self._done = done

    def on_results(self, tokens: Sequence[int], results: Sequence[Result]) -> None:
        self._done(tokens[0], results[0][0])


class AnswerTo:
    """Calls back with the error of one answer."""

    def __init__(self, call: Callable[[int], None]) -> None:
        self._call = call

    def on_results(self, tokens: Sequence[int], results: Sequence[Result]) -> None:
        self._call(results[0][0])
