"""The cases of the chart: what is given to helm, and the golden file of what comes out.

`python tests/deploy/charted.py` writes the golden files anew (with helm: make deploy builds it); look at the difference before it is kept.
"""

import subprocess
from pathlib import Path
from typing import Any

import yaml
from deployed import DEPLOY, ROOT, tools

CHART = DEPLOY / "helm" / "raftsched"
GOLDEN = ROOT / "tests" / "data" / "helm"
NAMESPACE = "dapr-system"
EXTERNAL = ["dapr_scheduler.etcdEmbed=false", "dapr_scheduler.etcdClientEndpoints={a:2379,b:2379,c:2379}"]
CASES: dict[str, list[str]] = {
    "default": [],
    "one-replica": ["dapr_scheduler.ha=false", "dapr_scheduler.cluster.storageClassName=fast", "dapr_scheduler.cluster.storageSize=64Gi"],
    "in-memory": ["dapr_scheduler.cluster.inMemoryStorage=true", "global.ha.podAntiAffinityPolicy=required"],
    "external": [*EXTERNAL, "dapr_scheduler.etcdClientUsername=u", "dapr_scheduler.etcdClientPassword=p", "dapr_scheduler.replicas=5"],
    "external-tls": [
        *EXTERNAL,
        "dapr_scheduler.etcdClientCredentialsSecret=etcd-user",
        "dapr_scheduler.etcdClientTLS.secretName=etcd-tls",
        "dapr_scheduler.etcdClientTLS.clientCertificate=true",
    ],
    "without-dapr": ["dapr_scheduler.withoutDapr=true", "dapr_scheduler.replicas=5", "global.prometheus.enabled=false"],
    "disabled": ["global.scheduler.enabled=false"],
}


def run(helm: Path, *words: str, home: Path) -> subprocess.CompletedProcess[str]:
    """helm with nothing of its user's settings; its own default is a Kubernetes too old for the chart."""
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    return subprocess.run([str(helm), *words], env=environment, capture_output=True, text=True, timeout=120, check=False)


def template(helm: Path, values: list[str], *, home: Path, more: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    given = [word for value in values for word in ("--set", value)]
    words = ["template", "dapr", str(CHART), "--namespace", NAMESPACE, "--kube-version", "1.33.0", *given, *more]
    return run(helm, *words, home=home)


def objects(text: str) -> dict[tuple[str, str], dict[str, Any]]:
    """By kind and name."""
    found = [one for one in yaml.safe_load_all(text) if one]
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


def golden(case: str) -> dict[tuple[str, str], dict[str, Any]]:
    return objects((GOLDEN / f"{case}.yaml").read_text())


if __name__ == "__main__":
    program = tools().helm()
    assert program is not None, "helm is not here: python scripts/tools.py build helm"
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name, case in CASES.items():
        answer = template(program, case, home=Path("/nonexistent"))
        assert answer.returncode == 0, answer.stderr
        (GOLDEN / f"{name}.yaml").write_text(answer.stdout)
