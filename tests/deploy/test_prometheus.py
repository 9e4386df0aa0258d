"""deploy/prometheus and deploy/grafana as Prometheus' own tool and Grafana's model have them; the names of metrics are looked at in
tests/process/test_deployed_metrics.py."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml
from deployed import DEPLOY, tool

FOLDER = DEPLOY / "prometheus"
DASHBOARD = DEPLOY / "grafana" / "raftsched.json"


def promtool(*words: str, cwd: Path = FOLDER) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(tool("promtool")), *words], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def dashboard() -> dict[str, Any]:
    return dict(json.loads(DASHBOARD.read_text()))


def test_promtool_takes_the_rules() -> None:
    answer = promtool("check", "rules", "--lint=all", "--lint-fatal", "rules.yaml")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    count = sum(len(group["rules"]) for group in yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"])
    assert f"{count} rules found" in answer.stdout


def test_alerts_come_when_they_should() -> None:
    answer = promtool("test", "rules", "rules_test.yaml")
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_promtool_takes_the_configuration() -> None:
    answer = promtool("check", "config", "prometheus.yaml")
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_promtool_takes_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    """With Grafana's variables replaced."""
    rules = []
    for panel in dashboard()["panels"]:
        for number, target in enumerate(panel.get("targets", ())):
            expression = target["expr"].replace("$__rate_interval", "5m").replace("$job", ".*").replace("$instance", ".*")
            rules.append({"record": f"panel:{panel['id']}:{number}", "expr": expression})
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    answer = promtool("check", "rules", "panels.yaml", cwd=tmp_path)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert f"{len(rules)} rules found" in answer.stdout


def test_replicas_of_the_compose_file_are_scraped() -> None:
    services = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["services"]
    page = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    static = page["scrape_configs"][0]
    assert static["job_name"] == "raftsched"
    assert static["static_configs"][0]["targets"] == [f"{name}:9090" for name in services]
    assert page["rule_files"] == ["rules.yaml"]


def test_the_dashboard_is_whole() -> None:
    """Ids are unique, panels do not lie over each other, every variable that is used is there."""
    board = dashboard()
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    variables = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(panels))) - {"__rate_interval"}
    assert used == variables
    assert all(target["expr"] and target["legendFormat"] for panel in panels for target in panel.get("targets", ()))
