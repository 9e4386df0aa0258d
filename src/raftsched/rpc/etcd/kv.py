"""etcdserverpb.KV (etcd-api §1.1). Puts, ranges, deletions and transactions go in batches and as the client's own bytes: checked
natively, never decoded here. Compact and RangeStream are rare and use the generated messages.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import compress
from typing import TYPE_CHECKING

from raftsched.errors import STREAM_MALFORMED, EtcdError, GrpcCode, StatusError
from raftsched.limits import RANGE_STREAM_CHUNK_KEYS, READ_ANSWERS_BYTES, REQUEST_BYTES_MAX
from raftsched.pb.etcd.rpc_pb2 import CompactionRequest, RangeRequest, RangeResponse, RangeStreamResponse
from raftsched.ports import Stream
from raftsched.proposals import COMPACTION, DELETE_RANGE, PUT, RANGE, TXN
from raftsched.rpc.durations import NOT_DONE, READ_ONLY_TXN, TYPES
from raftsched.rpc.etcd.access import permit
from raftsched.rpc.etcd.calls import STATUS, AnswerSink, Door, parse
from raftsched.rpc.etcd.streams import StreamCall
from raftsched.types import NOBODY, Identity, Result, ResultSink

if TYPE_CHECKING:
    from raftsched.rpc.http2._h2 import Call


def answer_reads(handles: Sequence[int], messages: Sequence[bytes], read: Callable[[bytes], Result], sink: ResultSink) -> None:
    """All of them; large answers go to the door, which counts them, before the next are made."""
    results: list[Result] = []
    first = size = 0
    for position, message in enumerate(messages, 1):
        results.append(read(message))
        size += len(results[-1][2])
        if size >= READ_ANSWERS_BYTES:
            sink.on_results(handles[first:position], results)
            results, first, size = [], position, 0
    sink.on_results(handles[first:], results)


class KvService:
    """The six methods of KV."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._access = door.access
        self._node = door.node
        self._store = door.node.mvcc
        engine, stats = door.engine, door.stats
        self._txn_stats = stats.method("/etcdserverpb.KV/Txn")
        self._txn_sink = AnswerSink(door, self._txn_stats, TYPES[TXN], NOT_DONE)
        self._reading_txn_sink = AnswerSink(door, self._txn_stats, READ_ONLY_TXN)
        self._range_stats = stats.method("/etcdserverpb.KV/Range")
        self._range_sink = AnswerSink(door, self._range_stats, TYPES[RANGE])
        self._write("/etcdserverpb.KV/Put", PUT)
        self._write("/etcdserverpb.KV/DeleteRange", DELETE_RANGE)
        engine.add_batch("/etcdserverpb.KV/Range", self._ranges)
        engine.add_batch("/etcdserverpb.KV/Txn", self._txns)
        engine.add_stream("/etcdserverpb.KV/RangeStream", partial(RangeStream, door))
        door.cold("/etcdserverpb.KV/Compact", self._compact)

    def _write(self, path: str, kind: int) -> None:
        door, propose = self._door, self._node.propose_many
        check = self._store.check_put if kind == PUT else self._store.check_delete_range
        stats = door.stats.method(path)
        sink = AnswerSink(door, stats, TYPES[kind], NOT_DONE)

        def handler(handles: list[int], messages: list[bytes]) -> None:
            if door.admit(handles, messages, check, stats) or handles:
                if self._access.enabled:
                    self._propose_owned(kind, handles, messages, sink.of_batch())
                else:
                    propose(kind, messages, handles, sink.of_batch())

        door.engine.add_batch(path, handler)

    def _propose_owned(self, kind: int, handles: list[int], messages: list[bytes], sink: AnswerSink, *, final: bool = False) -> None:
        """Writes, each in the name of whose it is."""
        groups: dict[Identity, tuple[list[int], list[bytes]]] = {}
        for handle, message, owner in zip(handles, messages, self._access.owners(handles, final=final), strict=True):
            if isinstance(owner, Identity):
                group = groups.setdefault(owner, ([], []))
                group[0].append(handle)
                group[1].append(message)
            elif owner is None:
                again = partial(self._propose_owned, kind, [handle], [message], sink, final=True)
                self._door.spawn(self._when_known(handle, sink, again))
            else:
                sink.refuse(handle, owner)
        for owner, (owned, requests) in groups.items():
            self._node.propose_many(kind, requests, owned, sink, identity=owner)

    async def _when_known(self, handle: int, sink: AnswerSink, then: Callable[[], None]) -> None:
        """`then()`, once the token of that call is applied here."""
        try:
            await self._access.wait(handle)
        except StatusError:
            sink.refuse(handle, EtcdError.STOPPED)
        else:
            then()

    def _ranges(self, handles: list[int], messages: list[bytes]) -> None:
        is_local = self._store.range_is_serializable
        if not self._door.admit(handles, messages, self._store.check_range, self._range_stats, is_local) and not handles:
            return
        local = list(map(is_local, messages))
        if any(local):
            self._read_local(list(compress(handles, local)), list(compress(messages, local)), self._range_sink.of_batch())
            others = [not one for one in local]
            handles, messages = list(compress(handles, others)), list(compress(messages, others))
        if handles:
            sink = self._range_sink.of_batch()
            self._node.read_many(messages, handles, sink, permit=lambda one, other: self._permit(one, other, RANGE, sink))

    def _read_local(self, handles: list[int], messages: list[bytes], sink: AnswerSink, *, final: bool = False) -> None:
        if self._access.enabled:
            for index in [index for index, owner in enumerate(self._access.owners(handles, final=final)) if owner is None][::-1]:
                handle, message = handles.pop(index), messages.pop(index)
                again = partial(self._read_local, [handle], [message], sink, final=True)
                self._door.spawn(self._when_known(handle, sink, again))
            handles, messages = self._permit(handles, messages, RANGE, sink)
        self._node.read_local_many(messages, handles, sink)

    def _permit(self, handles: Sequence[int], messages: Sequence[bytes], kind: int, sink: AnswerSink) -> tuple[list[int], list[bytes]]:
        """Those that may be read now; the others are refused."""
        errors = self._access.may_read(handles, messages, kind)
        for handle, error in zip(handles, errors, strict=True):
            if error:
                sink.refuse(handle, error)
        left = [(handle, message) for handle, message, error in zip(handles, messages, errors, strict=True) if not error]
        return [handle for handle, _ in left], [message for _, message in left]

    def _txns(self, handles: list[int], messages: list[bytes]) -> None:
        if not self._door.admit(handles, messages, self._store.check_txn, self._txn_stats) and not handles:
            return
        kinds = list(map(self._store.txn_is_read_only, messages))
        if not any(kinds):
            self._write_txns(handles, messages, self._txn_sink.of_batch())
            return
        split: tuple[list[int], ...] = ([], [], [])
        for index, kind in enumerate(kinds):
            split[kind].append(index)
        writes, linearizable, local = ([(handles[index], messages[index]) for index in part] for part in split)
        if writes:
            self._write_txns([handle for handle, _ in writes], [message for _, message in writes], self._txn_sink.of_batch())
        sink = self._reading_txn_sink.of_batch()
        self._read_txns(local, sink)
        if linearizable:
            self._door.spawn(self._read_txns_later(linearizable, sink))

    def _write_txns(self, handles: list[int], messages: list[bytes], sink: AnswerSink) -> None:
        if self._access.enabled:
            self._propose_owned(TXN, handles, messages, sink)
        else:
            self._node.propose_many(TXN, messages, handles, sink)

    def _read_txns(self, requests: list[tuple[int, bytes]], sink: AnswerSink) -> None:
        if not requests:
            return
        handles, messages = [handle for handle, _ in requests], [message for _, message in requests]
        if self._access.enabled:
            handles, messages = self._permit(handles, messages, TXN, sink)
        answer_reads(handles, messages, self._store.txn, sink)

    async def _read_txns_later(self, requests: list[tuple[int, bytes]], sink: AnswerSink) -> None:
        began = self._txn_stats.begin()
        try:
            await self._node.read_barrier()
        except StatusError as error:
            for handle, _ in requests:
                self._txn_stats.ended(int(error.code), 1, began)
                self._door.engine.fail(handle, int(error.code), error.message)
        else:
            self._read_txns(requests, sink)

    async def _compact(self, call: "Call", message: bytes) -> bytes:
        """With `physical` the answer waits until the records are gone and that is committed."""
        request = parse(CompactionRequest, message)
        _, revision, body = await self._door.propose(COMPACTION, message, await self._access.identify(call))
        if request.physical:
            await self._node.scrubbed()
        return self._node.header(revision) + body


class RangeStream(StreamCall):
    """One RangeStream call: chunks of a range at one pinned revision; only the last has header, more and count.

    The first chunk has RANGE_STREAM_CHUNK_KEYS keys; later ones grow or shrink towards REQUEST_BYTES_MAX. The next chunk is
    read when the client has taken the one before.
    """

    def __init__(self, door: Door, stream: Stream, path: str) -> None:
        super().__init__(door, stream, door.stats.method(path, "server_stream"))
        self._request: RangeRequest | None = None
        self._left = 0
        self._sent = 0
        self._revision = 0  # of the store when the first chunk was read: header and, unless the client names one, pin
        self._chunk_keys = RANGE_STREAM_CHUNK_KEYS
        self._running = False
        self._who = NOBODY
        self.admit()

    def on_messages(self, messages: Sequence[bytes]) -> None:
        if self._over:
            return
        if self._request is not None or len(messages) > 1:
            self.finish(int(GrpcCode.INTERNAL), "grpc: received more than one request of a server-streaming call")
            return
        try:
            self._start(messages[0])
        except StatusError as error:
            self.finish(int(error.code), error.message)

    def on_half_close(self) -> None:
        if self._request is None and not self._over:
            self.finish(int(GrpcCode.INTERNAL), "grpc: a server-streaming call without a request")

    def on_writable(self) -> None:
        if self._running and not self._over:
            self._pump()

    def _start(self, message: bytes) -> None:
        self._stats.received += 1
        error = self._door.node.mvcc.check_range(message)
        if error:
            self.finish(*STREAM_MALFORMED if error == EtcdError.MALFORMED else STATUS[error])
            return
        request = self._request = parse(RangeRequest, message)
        if request.sort_order == RangeRequest.DESCEND or request.sort_target != RangeRequest.KEY:
            self.finish(int(GrpcCode.UNIMPLEMENTED), "RangeStream does not support custom sort orders")
        elif request.min_mod_revision or request.max_mod_revision or request.min_create_revision or request.max_create_revision:
            self.finish(int(GrpcCode.UNIMPLEMENTED), "RangeStream does not support revision filters")
        else:
            self._left = request.limit if request.limit > 0 else 0
            self._door.spawn(self._begin(request))

    async def _begin(self, request: RangeRequest) -> None:
        try:
            if not request.serializable:
                await self._door.node.read_barrier()
            if self._door.access.enabled:
                self._who = await self._door.access.identify(self._stream)
                permit(self._door.access.checks.request(self._who, RANGE, request.SerializeToString()))
        except StatusError as error:
            self.finish(int(error.code), error.message)
            return
        self._running = True
        self._pump()

    def _pump(self) -> None:
        while not self._over and self._chunk():
            pass

    def _chunk(self) -> bool:
        """Sends one chunk; True when there is more to send and room for it."""
        request = self._request
        assert request is not None
        request.serializable = True  # the barrier, if any, is behind us: the rest is local
        if not request.count_only:
            request.limit = min(self._chunk_keys, self._left) if self._left else self._chunk_keys
        error, revision, body = self._door.node.read_local(request.SerializeToString())
        if error:
            self._fail(error)
            return False
        part = RangeResponse.FromString(body)
        self._revision = self._revision or revision
        if request.count_only:
            return self._last(RangeResponse(count=part.count))
        request.revision = request.revision if request.revision > 0 else self._revision
        self._sent += len(part.kvs)
        left = self._left - len(part.kvs) if self._left else 0
        if not part.more or (self._left and not left):
            return self._last(RangeResponse(kvs=part.kvs, more=part.more, count=self._sent - len(part.kvs) + part.count))
        self._left = left
        self._resize(len(body))
        request.key = part.kvs[-1].key + b"\0"
        self._stats.sent += 1
        return self._stream.push(RangeStreamResponse(range_response=RangeResponse(kvs=part.kvs)).SerializeToString())

    def _last(self, response: RangeResponse) -> bool:
        body = self._door.node.header(self._revision) + response.SerializeToString()
        self._stats.sent += 1
        self._stream.push(RangeStreamResponse(range_response=RangeResponse.FromString(body)).SerializeToString())
        changed = self._door.access.checks.fresh(self._who)  # permissions may have changed while it was sent
        self.finish(*(STATUS[changed] if changed else (0, "")))
        return False

    def _resize(self, chunk_bytes: int) -> None:
        if chunk_bytes < REQUEST_BYTES_MAX >> 1:
            self._chunk_keys *= 2
        elif chunk_bytes > REQUEST_BYTES_MAX * 2:
            self._chunk_keys = max(1, self._chunk_keys >> 1)

    def _fail(self, error: int) -> None:
        self.finish(*STATUS[error])
