"""What this process tells Prometheus: own counters behind a prometheus-client Collector, etcd's and Dapr's metric names.

Counting is adding to an integer of a plain object; names, labels and text are made when somebody scrapes. Whatever has no true
value here is left out, never shown as zero. Sources hand over finished `Family` records; nobody else knows prometheus-client.
"""

import math
import os
import resource
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, Literal

from google.protobuf.descriptor import ServiceDescriptor
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Sample

from raftsched.errors import GrpcCode
from raftsched.limits import CLIENT_VERSIONS_MAX

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
CODE_NAMES: Final[dict[int, str]] = {
    code: {"OK": "OK", "CANCELLED": "Canceled"}.get(code.name) or "".join(word.capitalize() for word in code.name.split("_"))
    for code in GrpcCode
}
"""As grpc-go prints codes: OK, Canceled, InvalidArgument, NotFound, ..."""

NEVER_HANDLED: Final[dict[int, int]] = dict.fromkeys(CODE_NAMES, 0)
"""Each code has its sample from the start, as in etcd: else a rate would miss the first one."""

Histogram = tuple[Sequence[tuple[float, int]], float]
"""([(upper bound, cumulative count)... ending with inf], sum)."""


Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric with its samples: label values in the order of `labels` -> number, or histogram."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    samples: Mapping[tuple[str, ...], float | Histogram] = field(default_factory=dict)


Source = Callable[[], Iterable[Family]]

HANDLING_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Prometheus' default buckets in seconds, which grpc_server_handling_seconds has in etcd."""


class Durations:
    """How long calls of one kind took."""

    __slots__ = ("bounds", "counts", "sum_s")

    def __init__(self, bounds: tuple[float, ...] = HANDLING_BOUNDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float, count: int) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += count
        self.sum_s += seconds * count

    def sample(self) -> Histogram:
        total = 0
        found = []
        for bound, count in zip((*self.bounds, math.inf), self.counts, strict=True):
            total += count
            found.append((bound, total))
        return found, self.sum_s


class MethodStats:
    """The counters of one gRPC method, as grpc-prometheus names them.

    `durations` is None unless they are asked for (--etcd-metrics=extensive): then `begin` is a time, and `ended` must be told it.
    """

    __slots__ = ("durations", "grpc_type", "handled", "method", "received", "sent", "service", "started")

    def __init__(self, path: str, grpc_type: Literal["unary", "server_stream", "client_stream", "bidi_stream"]) -> None:
        self.service, self.method = path.lstrip("/").split("/")
        self.grpc_type = grpc_type
        self.started = 0
        self.received = 0
        self.sent = 0
        self.handled: dict[int, int] = {}
        self.durations: Durations | None = None

    def begin(self) -> float:
        """When a call, or a batch of them, began; 0.0 while nobody measures."""
        return 0.0 if self.durations is None else time.perf_counter()

    def ended(self, code: int, count: int = 1, began: float = 0.0) -> None:
        self.handled[code] = self.handled.get(code, 0) + count
        if self.durations is not None:
            self.durations.observe(time.perf_counter() - began, count)


_GRPC_TYPES: Final[dict[tuple[bool, bool], Literal["unary", "server_stream", "client_stream", "bidi_stream"]]] = {
    (False, False): "unary",
    (False, True): "server_stream",
    (True, False): "client_stream",
    (True, True): "bidi_stream",
}


class GrpcStats:
    """All methods of one door, and who calls it."""

    def __init__(self, *, extensive: bool = False) -> None:
        """`extensive`: with grpc_server_handling_seconds."""
        self.extensive = extensive
        self.methods: dict[str, MethodStats] = {}
        self.client_versions: dict[tuple[str, str], int] = {}
        self.stream_failures: dict[tuple[str, ...], float | Histogram] = {}

    def method(self, path: str, grpc_type: Literal["unary", "server_stream", "client_stream", "bidi_stream"] = "unary") -> MethodStats:
        """The counters of `path`, made at first use."""
        stats = self.methods.setdefault(path, MethodStats(path, grpc_type))
        if self.extensive and stats.durations is None:
            stats.durations = Durations()
        return stats

    def announce(self, services: Iterable[ServiceDescriptor]) -> None:
        """All methods of these services, as nobody has called them yet."""
        for service in services:
            for method in service.methods:
                kind = _GRPC_TYPES[method.client_streaming, method.server_streaming]
                self.method(f"/{service.full_name}/{method.name}", kind)

    def count_client(self, call_type: Literal["unary", "stream"], version: str | None, count: int = 1) -> None:
        """A request by a client that says it is `version`; beyond CLIENT_VERSIONS_MAX different ones they count as "other"."""
        label = (call_type, version or "unknown")
        if label not in self.client_versions and len(self.client_versions) >= CLIENT_VERSIONS_MAX:
            label = (call_type, "other")
        self.client_versions[label] = self.client_versions.get(label, 0) + count

    def count_stream_failure(self, api: str) -> None:
        """What came on a stream was no message."""
        failures = self.stream_failures.get(("receive", api), 0)
        assert not isinstance(failures, tuple)
        self.stream_failures["receive", api] = failures + 1

    def families(self) -> Iterator[Family]:
        three = ("grpc_service", "grpc_method", "grpc_type")
        rows = [((one.service, one.method, one.grpc_type), one) for one in self.methods.values()]
        yield Family("grpc_server_started_total", "counter", "RPCs started on the server.", three, {key: one.started for key, one in rows})
        yield Family(
            "grpc_server_handled_total",
            "counter",
            "RPCs completed on the server, by code.",
            (*three, "grpc_code"),
            {
                (*key, CODE_NAMES.get(code, str(code))): count
                for key, one in rows
                for code, count in (NEVER_HANDLED | one.handled if one.handled else NEVER_HANDLED).items()
            },
        )
        yield Family("grpc_server_msg_received_total", "counter", "Messages received.", three, {key: one.received for key, one in rows})
        yield Family("grpc_server_msg_sent_total", "counter", "Messages sent.", three, {key: one.sent for key, one in rows})
        if self.extensive:
            yield Family(
                "grpc_server_handling_seconds",
                "histogram",
                "Response latency of RPCs that had been handled by the server.",
                three,
                {key: one.durations.sample() for key, one in rows if one.durations is not None},
            )
        yield Family(
            "etcd_server_client_requests_total",
            "counter",
            "Client requests per client version.",
            ("type", "client_api_version"),
            {(kind, version): count for (kind, version), count in self.client_versions.items()},
        )
        text = "The total number of stream failures from the local server."
        yield Family("etcd_network_server_stream_failures_total", "counter", text, ("Type", "API"), dict(self.stream_failures))


def descriptor_families() -> Iterator[Family]:
    """etcd's own pair beside process_open_fds and process_max_fds; nothing where the system does not list them."""
    try:
        used = len(os.listdir("/proc/self/fd")) - 1  # one of them lists
    except OSError:
        return
    yield single("os_fd_limit", "gauge", "The file descriptor limit.", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    yield single("os_fd_used", "gauge", "The number of used file descriptors.", used)


def process_families() -> Iterator[Family]:
    """Of Go's `process_*` those that prometheus-client does not have; nothing where the system does not tell them."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    text = "Maximum amount of virtual memory available in bytes."
    yield single("process_virtual_memory_max_bytes", "gauge", text, float(2**64 - 1 if limit == resource.RLIM_INFINITY else limit))
    try:
        with open("/proc/self/net/netstat", encoding="ascii") as file:
            names, values = (line.split() for line in file if line.startswith("IpExt:"))
    except (OSError, ValueError):
        return
    found = dict(zip(names, values, strict=True))
    for name, field_name, text in (
        ("process_network_receive_bytes_total", "InOctets", "Number of bytes received by the process over the network."),
        ("process_network_transmit_bytes_total", "OutOctets", "Number of bytes sent by the process over the network."),
    ):
        if field_name in found:
            yield single(name, "counter", text, float(found[field_name]))


def single(name: str, kind: Literal["counter", "gauge"], text: str, value: float) -> Family:
    """A metric without labels."""
    return Family(name, kind, text, (), {(): value})


class Metrics(Collector):
    """All sources of the process, scraped in the order in which they were added, and the `process_*` metrics."""

    def __init__(self) -> None:
        self._sources: list[Source] = []
        self._scrapes = 0
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def add(self, source: Source) -> None:
        self._sources.append(source)

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are known when scraped."""
        return ()

    def collect(self) -> Iterator[Metric]:
        seen: set[str] = set()
        for source in (*self._sources, process_families, self._of_scrapes):
            for family in source():
                if family.name not in seen:
                    seen.add(family.name)
                    yield _metric(family)

    def _of_scrapes(self) -> Iterator[Family]:
        """As Go's handler counts them: this one is in flight. It never fails, and none is turned away."""
        text = "Total number of scrapes by HTTP status code."
        yield Family(
            "promhttp_metric_handler_requests_total", "counter", text, ("code",), {("200",): self._scrapes, ("500",): 0, ("503",): 0}
        )
        yield single("promhttp_metric_handler_requests_in_flight", "gauge", "Current number of scrapes being served.", 1)

    def render(self) -> bytes:
        """The text format, version 0.0.4, numbers written as Go writes them: `etcd_mvcc_put_total 2`."""
        lines: list[str] = []
        for metric in self._registry.collect():
            if metric.samples:
                name = metric.samples[0].name if metric.type in {"counter", "gauge"} else metric.name
                help_text = metric.documentation.replace("\\", "\\\\").replace("\n", "\\n")
                lines.append(f"# HELP {name} {help_text}\n# TYPE {name} {metric.type}\n")
                lines.extend(map(_line, metric.samples))
        self._scrapes += 1
        return "".join(lines).encode()


def _metric(family: Family) -> Metric:
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for values, sample in family.samples.items():
            assert isinstance(sample, tuple)
            histogram.add_metric(list(values), [(_number(bound), float(count)) for bound, count in sample[0]], sample[1])
        return histogram
    made = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    plain = made(family.name, family.help)
    for values, sample in family.samples.items():
        assert not isinstance(sample, tuple)
        # not by add_metric, which gives every counter a name in _total: etcd_server_health_success has none
        plain.samples.append(Sample(family.name, dict(zip(family.labels, values, strict=True)), sample))
    return plain


def _line(sample: Sample) -> str:
    labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in sorted(sample.labels.items()))
    return f"{sample.name}{{{labels}}} {_number(sample.value)}\n" if labels else f"{sample.name} {_number(sample.value)}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    """As Prometheus' Go library writes numbers, since `le` is a label and compared as text: 1000, 0.0001, 1.048576e+06, +Inf."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    if not value or 1e-4 <= abs(value) < 1e6:
        return str(int(value)) if value == int(value) else repr(float(value))
    sign, digits, last = Decimal(repr(float(value))).normalize().as_tuple()
    assert isinstance(last, int)
    first, rest = digits[0], "".join(map(str, digits[1:]))
    return f"{'-' * sign}{first}{'.' * bool(rest)}{rest}e{last + len(digits) - 1:+03d}"
