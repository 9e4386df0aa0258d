"""deploy/prometheus and deploy/grafana speak of metrics and labels that a running server has, and of no others."""

import json
import queue
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from serving import Clients, fetch, wait_for

from raftsched.pb.dapr import scheduler_pb2
from raftsched.testing.process import ServerProcess

pytestmark = pytest.mark.process
DEPLOY = Path(__file__).parent.parent.parent / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yaml"
DASHBOARD = DEPLOY / "grafana" / "raftsched.json"
OF_PROMETHEUS = {"job", "instance"}  # labels that every series gets when it is scraped
SYNTHETIC = {"up"}  # made by Prometheus itself
WORDS = {
    *("sum", "min", "max", "avg", "count", "by", "without", "rate", "increase", "changes", "histogram_quantile", "clamp_min", "or", "and"),
    *("unless", "on", "ignoring", "group_left", "offset", "bool", "topk", "delta", "label_replace", "time", "irate", "vector"),
}
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def panels(tree: Any) -> Iterator[dict[str, Any]]:
    for panel in tree.get("panels", ()):
        yield panel
        yield from panels(panel)


def targets() -> Iterator[tuple[str, str]]:
    """(title of the panel, expression)."""
    for panel in panels(json.loads(DASHBOARD.read_text())):
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def variables() -> Iterator[str]:
    for variable in json.loads(DASHBOARD.read_text())["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["definition"]


def selectors(expression: str) -> list[tuple[str, set[str]]]:
    """Each metric of an expression with the labels that it is chosen by."""
    text = re.sub(r"\[[^\]]*\]", "", expression)
    found: list[tuple[str, set[str]]] = []
    strings = re.compile(r'"(?:[^"\\]|\\.)*"')
    bare = re.sub(r"\b(?:by|without|on|ignoring)\s*\([^)]*\)", "", strings.sub('""', text))
    for match in re.finditer(rf"({NAME})\s*(\{{[^}}]*\}})?", bare):
        name, chosen = match.groups()
        inside = bare.rfind("{", 0, match.start()) > bare.rfind("}", 0, match.start())
        if name in WORDS or inside or re.fullmatch(r"\d+[smhd]", name) or bare[match.start() - 1 : match.start()].isdigit():
            continue
        found.append((name, set(re.findall(rf"({NAME})\s*(?:=|!)", chosen or ""))))
    return found


def groupings(expression: str) -> set[str]:
    return {label for inner in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression) for label in re.findall(NAME, inner)}


def recorded() -> dict[str, str]:
    return {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}


def problems(expression: str, series: dict[str, set[str]]) -> list[str]:
    """What the expression names and no series has. A recorded metric has the labels that its own rule keeps."""
    found, known = [], set(OF_PROMETHEUS)
    used = selectors(expression)
    if not used:
        found.append("no metric at all")
    for name, labels in used:
        if name in recorded():
            inner = recorded()[name]
            own = (groupings(inner) or set().union(*(series.get(one, set()) for one, _ in selectors(inner)))) | OF_PROMETHEUS
        elif name in series or name in SYNTHETIC:
            own = series.get(name, set()) | OF_PROMETHEUS
        else:
            found.append(f"no metric {name}")
            continue
        known |= own
        found += [f"{name} has no label {label}" for label in sorted(labels - own)]
    return found + [f"no label {label} to group by" for label in sorted(groupings(expression) - known)]


def series_of(page: str) -> dict[str, set[str]]:
    """Label names by name of the samples."""
    found: dict[str, set[str]] = {}
    for line in page.splitlines():
        if line and line[0] != "#":
            match = re.match(rf"({NAME})(?:\{{(.*)\}})? ", line)
            assert match is not None, line
            found.setdefault(match[1], set()).update(re.findall(rf'({NAME})="', match[2] or ""))
    return found


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Of a server with a sidecar whose gate holds a trigger back: what nobody uses has no series yet."""
    with ServerProcess(tmp_path_factory.mktemp("server")) as server:
        clients = Clients(server)
        limit = scheduler_pb2.ConcurrencyLimit(max_concurrent=1, actor=scheduler_pb2.ConcurrencyLimitActor(type="cat"))
        initial = scheduler_pb2.WatchJobsRequestInitial(app_id="app", namespace="default", actor_types=["cat"], concurrency_limits=[limit])
        requests: queue.Queue[scheduler_pb2.WatchJobsRequest | None] = queue.Queue()
        requests.put(scheduler_pb2.WatchJobsRequest(initial=initial))
        stream = clients.scheduler.WatchJobs(iter(requests.get, None))
        reader = threading.Thread(target=lambda: [None for _ in _until_broken(stream)])
        reader.start()
        try:
            for name in ("one", "two"):  # the first is never acknowledged
                target = scheduler_pb2.JobTargetMetadata(actor=scheduler_pb2.TargetActorReminder(type="cat", id=name))
                metadata = scheduler_pb2.JobMetadata(app_id="app", namespace="default", target=target)
                job = scheduler_pb2.Job(due_time="0s")
                clients.scheduler.ScheduleJob(scheduler_pb2.ScheduleJobRequest(name=name, job=job, metadata=metadata), timeout=10)
            held = "dapr_scheduler_concurrency_throttled_total{"
            wait_for(lambda: held in fetch(server.metrics_port, "/metrics")[1], 10, "no trigger is held back")
            return series_of(fetch(server.metrics_port, "/metrics")[1])
        finally:
            requests.put(None)
            stream.cancel()
            reader.join(10)
            clients.close()


def _until_broken(stream: Any) -> Iterator[object]:
    import grpc

    try:
        yield from stream
    except grpc.RpcError:
        return


def test_every_rule_speaks_of_what_is_there(series: dict[str, set[str]]) -> None:
    assert len(rules()) > 15
    found = {rule.get("alert") or rule["record"]: problems(rule["expr"], series) for rule in rules()}
    assert {name: what for name, what in found.items() if what} == {}


def test_every_panel_speaks_of_what_is_there(series: dict[str, set[str]]) -> None:
    assert len(list(targets())) > 15
    found = [(title, expression, problems(expression, series)) for title, expression in targets()]
    assert [one for one in found if one[2]] == []


def test_every_variable_of_the_dashboard_has_values(series: dict[str, set[str]]) -> None:
    for definition in variables():
        match = re.fullmatch(rf"label_values\((.*),\s*({NAME})\)", definition)
        assert match is not None, definition
        ((metric, labels),) = selectors(match[1])
        assert {*labels, match[2]} <= series[metric] | OF_PROMETHEUS


def test_texts_of_alerts_name_labels_that_their_expression_leaves(series: dict[str, set[str]]) -> None:
    for rule in rules():
        if "alert" not in rule:
            continue
        kept = groupings(rule["expr"])
        for name, _ in selectors(rule["expr"]):
            kept |= groupings(recorded()[name]) if name in recorded() and groupings(recorded()[name]) else set()
        if not kept and not rule["expr"].startswith("sum("):
            kept = OF_PROMETHEUS | set().union(*(series.get(name, set()) for name, _ in selectors(rule["expr"])))
        named = set(re.findall(rf"\$labels\.({NAME})", json.dumps(rule["annotations"])))
        assert named <= kept, rule["alert"]
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "description"}


def test_a_wrong_name_or_label_would_be_found(series: dict[str, set[str]]) -> None:
    assert problems('sum by (type) (rate(dapr_scheduler_jobs_triggered_total{job="raftsched", type="job"}[5m]))', series) == []
    assert problems("rate(dapr_scheduler_jobs_fired_total[5m])", series) == ["no metric dapr_scheduler_jobs_fired_total"]
    assert problems('etcd_server_has_leader{typ="x"}', series) == ["etcd_server_has_leader has no label typ"]
    assert problems("sum by (app) (dapr_scheduler_sidecars_connected)", series) == ["no label app to group by"]
    assert problems("sum by (instance) (raftsched:trigger_failures:ratio15m{kind='x'})", series) == [
        "raftsched:trigger_failures:ratio15m has no label kind"
    ]
    assert problems("1 > 2", series) == ["no metric at all"]
