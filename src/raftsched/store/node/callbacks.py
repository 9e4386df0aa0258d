"""Whoever is called back: those who wait for an answer, and those who hear of all changes.

Invariant: a callback's failure is its own: what was applied stays applied, the others are called.
Must not know: what is answered.
"""

from collections.abc import Callable

from raftsched.errors import FatalError
from raftsched.ports import ChangeSink
from raftsched.ports import Log as LogPort
from raftsched.store.mvcc._store import MvccStore
from raftsched.store.node.figures import Figures
from raftsched.store.replica import Output


class Callbacks:
    """`fail`: for a FatalError, which is no callback's own."""

    def __init__(self, fail: Callable[[Exception], None], figures: Figures, log: LogPort) -> None:
        self._fail, self._figures, self._log = fail, figures, log

    def guard(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            call(*arguments)
        except FatalError as error:
            self._fail(error)
        except Exception as error:  # whatever it is, the other callbacks are not to suffer; see the invariant
            self._figures.callback_failures_total += 1
            self._log.error("a callback of the store failed", error=repr(error))

    def deliver(self, output: Output) -> None:
        """Its answers, then its reads."""
        for sink, tokens, results in output.replies:
            self.guard(sink.on_results, tokens, results)
        for serve, error in output.reads:
            self.guard(serve, error)


class ChangeSinks:
    """Those who hear of all changes; while there is none the store does not collect them."""

    def __init__(self, store: MvccStore, callbacks: Callbacks) -> None:
        self._store, self._guard = store, callbacks.guard
        self._sinks: list[ChangeSink] = []

    def add(self, sink: ChangeSink) -> Callable[[], None]:
        """See `ports.StoreNode.add_change_sink`."""
        self._sinks.append(sink)
        self._store.watching = True

        def end() -> None:
            if sink in self._sinks:
                self._sinks.remove(sink)
                self._store.watching = bool(self._sinks)

        return end

    def tell(self) -> None:
        """What was applied since the last call."""
        changes = self._store.take_changes() if self._sinks else None
        if changes:
            revision = self._store.revision
            for sink in tuple(self._sinks):
                self._guard(sink.on_changes, changes, revision)
