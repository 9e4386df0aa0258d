"""deploy/helm/raftsched: its values, what helm makes of them (golden files), and the command lines in there."""

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from charted import CASES, CHART, GOLDEN, NAMESPACE, golden, objects, run, template
from deployed import config_of, flags_of, later, tool
from fake_api import FakeApi

from raftsched import version
from raftsched.config import ServeConfig
from raftsched.config.flags import BY_NAME
from raftsched.testing.process import SOURCE

SERVER = "dapr-scheduler-server"
MADE = [case for case in CASES if case != "disabled"]
OF_DAPR: dict[str, Any] = {  # spec/scheduler.md §8.2
    "logLevel": "info",
    "component": "scheduler",
    "image.name": "scheduler",
    "nameOverride": "",
    "fullnameOverride": "",
    "statefulsetAnnotations": {},
    "service.annotations": {},
    "resources": {},
    "extraEnvVars": {},
    "ports.protocol": "TCP",
    "ports.etcdGRPCClientPort": 2379,
    "ports.etcdGRPCPeerPort": 2380,
    "cluster.etcdDataDirPath": "/var/run/data/dapr-scheduler",
    "cluster.etcdDataDirWinPath": "C:\\\\dapr-scheduler",
    "cluster.storageClassName": "",
    "cluster.inMemoryStorage": False,
    "cluster.storageSize": "1Gi",
    "etcdSpaceQuota": "9.2E",
    "etcdCompactionMode": "periodic",
    "etcdCompactionRetention": "10m",
    "etcdSnapshotCount": 10000,
    "etcdMaxSnapshots": 10,
    "etcdMaxWals": 10,
    "etcdBackendBatchLimit": 5000,
    "etcdBackendBatchInterval": "50ms",
    "etcdMaxTxnOps": 10000,
    "etcdDefragThresholdMB": 100,
    "etcdInitialElectionTickAdvance": False,
    "etcdMetrics": "basic",
    "etcdEmbed": True,
    "etcdClientEndpoints": [],
    "etcdClientUsername": "",
    "etcdClientPassword": "",
    "workers": 2048,
    "overrideBroadcastHostPort": None,
    "livenessProbe.initialDelaySeconds": 180,
    "livenessProbe.periodSeconds": 10,
    "livenessProbe.failureThreshold": 5,
    "readinessProbe.initialDelaySeconds": 1,
    "readinessProbe.periodSeconds": 1,
    "readinessProbe.failureThreshold": 3,
    "securityContext.runAsNonRoot": True,
    "securityContext.fsGroup": 65532,
    "debug.enabled": False,
    "debug.port": 40000,
    "debug.initialDelaySeconds": 30000,
}
FLAG_OF = {  # defaults that are those of a flag, too
    "logLevel": "log-level",
    "etcdDefragThresholdMB": "etcd-experimental-bootstrap-defrag-threshold-megabytes",
    "workers": "workers",
    **{
        name: "etcd-" + re.sub(r"(?<=[a-z])([A-Z])", r"-\1", name.removeprefix("etcd")).lower()
        for name in OF_DAPR
        if name.startswith("etcd") and name not in {"etcdDefragThresholdMB", "etcdClientEndpoints"}
    },
}


def values() -> dict[str, Any]:
    return dict(yaml.safe_load((CHART / "values.yaml").read_text()))


def leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def container(case: str) -> dict[str, Any]:
    (only,) = golden(case)["StatefulSet", SERVER]["spec"]["template"]["spec"]["containers"]
    return dict(only)


def arguments(case: str, ordinal: int = 0) -> list[str]:
    """The pod's command line, expanded as Kubernetes does."""
    return [word.replace("$(SCHEDULER_ID)", f"{SERVER}-{ordinal}") for word in container(case)["args"]]


# -- values


def test_every_value_of_dapr_is_there_with_its_default() -> None:
    found = dict(leaves(values()["dapr_scheduler"]))
    assert {name: found.get(name, "not there") for name in OF_DAPR} == OF_DAPR
    for name, flag in FLAG_OF.items():
        assert str(BY_NAME[flag].default).lower() == str(OF_DAPR[name]).lower(), (name, flag)
    shared = dict(leaves(values()["global"]))
    assert shared["scheduler.enabled"] is True
    assert (shared["ha.podAntiAffinityPolicy"], shared["ha.topologyKey"]) == ("preferred", "topology.kubernetes.io/zone")
    assert (shared["ha.disruption.minimumAvailable"], shared["ha.disruption.maximumUnavailable"]) == ("", "25%")
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == version.VERSION


def test_the_readme_names_every_value_of_ours() -> None:
    page = (CHART / "README.md").read_text()
    ours = [name for name in dict(leaves(values()["dapr_scheduler"])) if name not in OF_DAPR]
    assert ours
    assert [name for name in ours if f"`{name}`" not in page] == []


# -- command lines


@pytest.mark.parametrize("case", MADE)
def test_the_command_lines_have_nothing_but_flags(case: str) -> None:
    files = ("--etcd-client-cacert=", "--etcd-client-cert=", "--etcd-client-key=")  # flags of a version that has an external etcd
    words = [word for word in arguments(case) if "etcd-client-cacert" in BY_NAME or not word.startswith(files)]
    given = flags_of(words)
    assert given["id"] == f"{SERVER}-0"
    assert given["etcd-data-dir"] == f"/var/run/data/dapr-scheduler/{NAMESPACE}/{SERVER}-0"


def test_the_order_of_the_arguments_is_that_of_dapr() -> None:
    names = [word.partition("=")[0] for word in arguments("default") if word.startswith("--")]
    assert names[:7] == [
        "--listen-address",
        "--id",
        "--etcd-initial-cluster",
        "--etcd-embed",
        "--log-level",
        "--enable-metrics",
        "--metrics-port",
    ]
    assert names[7:10] == ["--etcd-client-port", "--etcd-data-dir", "--etcd-space-quota"]
    tail = ["--tls-enabled", "--trust-domain", "--trust-anchors-file", "--sentry-address", "--mode", "--workers"]
    assert names[-6:] == tail
    assert "--etcd-client-listen-address" not in names, "the etcd port is for the pod alone: port-forward reaches it"


KUBERNETES = later("--mode=kubernetes", "--trust-anchors-file=ca.crt", f"--etcd-initial-cluster={SERVER}-0=https://a:2380")
EXTERNAL = later("--etcd-embed=false", "--etcd-client-endpoints=a:2379")
NEEDS = {"without-dapr": (), "external": (KUBERNETES, EXTERNAL), "external-tls": (KUBERNETES, EXTERNAL)}


@pytest.mark.parametrize("case", [pytest.param(case, marks=NEEDS.get(case, (KUBERNETES,))) for case in MADE])
def test_the_server_takes_the_command_lines(case: str) -> None:
    if case == "external-tls" and "etcd-client-cacert" not in BY_NAME:
        pytest.skip("--etcd-client-cacert is not there in this version")
    replicas = golden(case)["StatefulSet", SERVER]["spec"]["replicas"]
    configs = [config_of(arguments(case, ordinal), {"NAMESPACE": NAMESPACE}) for ordinal in range(replicas)]
    assert [one.id for one in configs] == [f"{SERVER}-{ordinal}" for ordinal in range(replicas)]
    for config in configs:
        check_config(case, config, replicas)


def check_config(case: str, config: ServeConfig, replicas: int) -> None:
    assert config.namespace == NAMESPACE
    assert (config.port, config.healthz_port, config.etcd_client_port) == (50006, 8080, 2379)
    assert config.enable_metrics is (case != "without-dapr")
    assert config.etcd_embed is not case.startswith("external")
    if config.etcd_embed:
        assert len(config.initial_cluster) == replicas
        assert (config.peer_listen_host, config.peer_listen_port) == ("0.0.0.0", 2380)


def test_without_dapr_five_members_wait_for_their_volumes() -> None:
    config = config_of(arguments("without-dapr", 4), {"NAMESPACE": NAMESPACE})
    assert config.peer_url == f"http://{SERVER}-4.{SERVER}.{NAMESPACE}.svc.cluster.local:2380"
    assert config.form_wait_ms == 24 * 3_600_000


@pytest.mark.process
def test_the_pre_stop_hook_is_a_command_of_ours() -> None:
    """Outside of Kubernetes it finds no pod, removes nothing and does not fail."""
    program, *words = container("default")["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "raftsched"
    answer = subprocess.run(
        [sys.executable, "-m", "raftsched", *words],
        env={"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith("nothing removed: ")
    spec = golden("default")["StatefulSet", SERVER]["spec"]["template"]["spec"]
    timeout_s = next(float(word.partition("=")[2]) for word in words if word.startswith("--timeout="))
    assert spec["terminationGracePeriodSeconds"] >= timeout_s + 20, "then jobs are given away and streams drain"


# -- shape (spec/scheduler.md §8.3)


def test_the_shape_is_that_of_dapr() -> None:
    made = golden("default")
    assert set(made) == {
        ("StatefulSet", SERVER),
        ("Service", SERVER),
        ("Service", f"{SERVER}-a"),
        ("PodDisruptionBudget", f"{SERVER}-disruption-budget"),
        ("ServiceAccount", "dapr-scheduler"),
        ("ClusterRole", "dapr-scheduler"),
        ("ClusterRoleBinding", "dapr-scheduler"),
        ("Role", "dapr-scheduler"),
        ("RoleBinding", "dapr-scheduler"),
    }
    spec = made["StatefulSet", SERVER]["spec"]
    assert (spec["replicas"], spec["podManagementPolicy"], spec["serviceName"]) == (3, "Parallel", SERVER)
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "dapr-scheduler-data-dir"
    assert claim["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    metadata = spec["template"]["metadata"]
    assert metadata["labels"]["app"] == spec["selector"]["matchLabels"]["app"] == SERVER
    scraped = {"prometheus.io/scrape": "true", "prometheus.io/port": "9090", "prometheus.io/path": "/"}
    assert metadata["annotations"] == {"dapr.io/control-plane": "scheduler"} | scraped
    assert made["PodDisruptionBudget", f"{SERVER}-disruption-budget"]["spec"]["maxUnavailable"] == "25%"


def test_pods_can_do_little_and_have_what_sentry_needs() -> None:
    pod, own = golden("default")["StatefulSet", SERVER]["spec"]["template"]["spec"], container("default")
    assert (own["command"], pod["serviceAccountName"], pod["securityContext"]["fsGroup"]) == (["/scheduler"], "dapr-scheduler", 65532)
    rights = {"runAsNonRoot": True, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    assert own["securityContext"] == rights
    volumes = {one["name"]: one for one in pod["volumes"]}
    mounts = {one["mountPath"]: one["name"] for one in own["volumeMounts"]}
    assert volumes[mounts["/tmp"]]["emptyDir"] == {}
    assert volumes[mounts["/var/run/secrets/dapr.io/tls"]]["configMap"] == {"name": "dapr-trust-bundle"}
    (token,) = volumes[mounts["/var/run/secrets/dapr.io/sentrytoken"]]["projected"]["sources"]
    audience = f"spiffe://cluster.local/ns/{NAMESPACE}/dapr-sentry"
    assert token["serviceAccountToken"] == {"path": "token", "expirationSeconds": 600, "audience": audience}
    for probe, numbers in {"livenessProbe": (180, 10, 5), "readinessProbe": (1, 1, 3)}.items():
        assert own[probe]["httpGet"] == {"path": "/healthz", "port": 8080}
        assert tuple(own[probe][name] for name in ("initialDelaySeconds", "periodSeconds", "failureThreshold")) == numbers


def test_services_are_where_sidecars_and_members_look() -> None:
    made = golden("default")
    for name, api in {SERVER: (50006, 50006), f"{SERVER}-a": (443, 50006)}.items():
        spec = made["Service", name]["spec"]
        assert spec["publishNotReadyAddresses"] is True
        assert spec["selector"] == {"app": SERVER}
        ports = {one["name"]: (one["port"], one.get("targetPort", one["port"])) for one in spec["ports"]}
        assert ports == {"api": api, "etcd-client": (2379, 2379), "etcd-peer": (2380, 2380), "metrics": (9090, 9090)}
    assert made["Service", SERVER]["spec"]["clusterIP"] == "None"
    assert "clusterIP" not in made["Service", f"{SERVER}-a"]["spec"]


def test_rights_are_those_that_are_used() -> None:
    made = golden("default")
    (namespaces,), (sets,) = made["ClusterRole", "dapr-scheduler"]["rules"], made["Role", "dapr-scheduler"]["rules"]
    assert namespaces == {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list", "watch"]}
    assert sets == {"apiGroups": ["apps"], "resources": ["statefulsets"], "resourceNames": [SERVER], "verbs": ["get"]}
    assert ("ClusterRole", "dapr-scheduler") not in golden("without-dapr"), "no namespace is watched there"
    assert ("Role", "dapr-scheduler") not in golden("external"), "nobody leaves a cluster there"


def test_the_other_cases() -> None:
    one, memory, external, alone = (golden(case)["StatefulSet", SERVER]["spec"] for case in MADE if case not in {"default", "external-tls"})
    assert one["replicas"] == 1
    assert one["volumeClaimTemplates"][0]["spec"]["storageClassName"] == "fast"
    assert one["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"] == "64Gi"
    assert "volumeClaimTemplates" not in memory
    volumes = {volume["name"]: volume for volume in memory["template"]["spec"]["volumes"]}
    assert volumes["dapr-scheduler-data-dir"]["emptyDir"] == {"medium": "Memory"}
    rule = "requiredDuringSchedulingIgnoredDuringExecution"
    assert rule in memory["template"]["spec"]["affinity"]["podAntiAffinity"]
    assert "volumeClaimTemplates" not in external
    assert "lifecycle" not in external["template"]["spec"]["containers"][0]
    assert (external["replicas"], alone["replicas"]) == (5, 5)
    secrets = [one["valueFrom"]["secretKeyRef"] for one in container("external-tls")["env"] if "secretKeyRef" in one["valueFrom"]]
    assert secrets == [{"name": "etcd-user", "key": "username"}, {"name": "etcd-user", "key": "password"}]
    assert "dapr-trust-bundle" not in str(alone)
    assert golden("disabled") == {}


# -- with helm


def test_helm_finds_nothing_to_object_to(tmp_path: Path) -> None:
    helm = tool("helm")
    for case in CASES.values():
        given = [word for value in case for word in ("--set", value)]
        answer = run(helm, "lint", str(CHART), "--strict", "--quiet", "--kube-version", "1.33.0", *given, home=tmp_path)
        assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize("case", CASES)
def test_helm_makes_what_the_golden_file_has(case: str, tmp_path: Path) -> None:
    answer = template(tool("helm"), CASES[case], home=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == (GOLDEN / f"{case}.yaml").read_text(), "python tests/deploy/charted.py writes it anew"


REFUSED = {
    "dapr_scheduler.replicas=4": "Sentry signs certificates for three members",
    "dapr_scheduler.replicas=0": "must be at least 1",
    "dapr_scheduler.etcdEmbed=false": "must specify dapr_scheduler.etcdClientEndpoints when not using embedded etcd",
    "dapr_scheduler.etcdClientEndpoints={a:1}": "cannot use dapr_scheduler.etcdClientEndpoints with dapr_scheduler.etcdEmbed",
    "dapr_scheduler.etcdClientUsername=u": "cannot use dapr_scheduler.etcdClientUsername with dapr_scheduler.etcdEmbed",
    "dapr_scheduler.etcdClientPassword=p": "cannot use dapr_scheduler.etcdClientPassword with dapr_scheduler.etcdEmbed",
    "dapr_scheduler.etcdClientCredentialsSecret=s": "cannot use dapr_scheduler.etcdClientCredentialsSecret with dapr_scheduler.etcdEmbed",
    "dapr_scheduler.etcdClientTLS.secretName=s": "cannot use dapr_scheduler.etcdClientTLS with dapr_scheduler.etcdEmbed",
    "global.daprControlPlaneOs=windows": "there is no image of raftsched for global.daprControlPlaneOs other than linux",
    "global.ha.podAntiAffinityPolicy=x": "global.ha.podAntiAffinityPolicy must be preferred or required",
}


@pytest.mark.parametrize("value", REFUSED)
def test_what_cannot_work_is_refused_before_anything_is_made(value: str, tmp_path: Path) -> None:
    answer = template(tool("helm"), [value], home=tmp_path)
    assert answer.returncode != 0
    assert REFUSED[value] in answer.stderr


WITH = {  # what must be said besides, so that a value is looked at
    "etcdClientEndpoints": ["dapr_scheduler.etcdEmbed=false"],
    "etcdClientUsername": CASES["external"],
    "etcdClientPassword": CASES["external"],
    "etcdClientCredentialsSecret": CASES["external"],
    "etcdClientTLS.secretName": CASES["external"],
    "etcdClientTLS.clientCertificate": CASES["external-tls"][:4],
    "etcdEmbed": ["dapr_scheduler.etcdClientEndpoints={a:1}"],
    "debug.port": ["dapr_scheduler.debug.enabled=true"],
    "debug.initialDelaySeconds": ["dapr_scheduler.debug.enabled=true"],
    "replicas": ["dapr_scheduler.withoutDapr=true"],
    "ha.enabled": ["dapr_scheduler.ha=false"],
}
WITHOUT_EFFECT = {"cluster.etcdDataDirWinPath", "daprControlPlaneOs"}  # there is no image for Windows: another system is refused
OTHER = {  # where another value of the same kind is no value
    "ports.protocol": "UDP",
    "cluster.storageSize": "2Gi",
    "ha.podAntiAffinityPolicy": "required",
}


def changed(path: str, value: Any) -> str:
    """`--set` of something else."""
    if path.rpartition(".")[2] in OTHER or path.partition(".")[2] in OTHER:
        return f"{path}={OTHER.get(path.rpartition('.')[2]) or OTHER[path.partition('.')[2]]}"
    if isinstance(value, bool):
        return f"{path}={str(not value).lower()}"
    if isinstance(value, int):
        return f"{path}={value + 1}"
    if isinstance(value, dict):
        return f"{path}.other=other"
    if isinstance(value, list):
        return f"{path}[0].name=other" if "global" in path or "Endpoints" not in path else f"{path}={{other}}"
    return f"{path}=5" if value is None else f"{path}=other"


def test_no_value_is_ignored(tmp_path: Path) -> None:
    """Whatever is changed in values.yaml changes what is made: a misspelt name in a template would show here."""
    helm, plain = tool("helm"), {}
    silent = []
    for path, value in leaves(values()):
        name = path.partition(".")[2]
        if name in WITHOUT_EFFECT:
            continue
        besides = WITH.get(name, [])
        before = plain.get(str(besides)) or plain.setdefault(str(besides), template(helm, besides, home=tmp_path).stdout)
        answer = template(helm, [*besides, changed(path, value)], home=tmp_path)
        if answer.returncode or answer.stdout == before:
            silent.append((path, answer.stderr))
    assert silent == []


def test_numbers_and_nothing_stay_what_they_are(tmp_path: Path) -> None:
    """Numbers of a values file are floats to helm; `fsGroup: ~` leaves it out."""
    page = tmp_path / "values.yaml"
    page.write_text(
        "dapr_scheduler: {etcdSnapshotCount: 100000000, etcdCompactionMode: revision, etcdCompactionRetention: 1000000, "
        "securityContext: {fsGroup: ~}, extraEnvVars: {A: 12345678}}\n"
    )
    answer = template(tool("helm"), [], home=tmp_path, more=("--values", str(page)))
    assert answer.returncode == 0, answer.stderr
    spec = objects(answer.stdout)["StatefulSet", SERVER]["spec"]["template"]["spec"]
    assert "securityContext" not in spec
    words = spec["containers"][0]["args"]
    assert {"--etcd-snapshot-count=100000000", "--etcd-compaction-retention=1000000"} <= set(words)
    assert {"name": "A", "value": "12345678"} in spec["containers"][0]["env"]


@pytest.mark.parametrize("given", [["={a,b}"], ["[0].name=a", "[1].name=b"]], ids=["names", "references"])
def test_pull_secrets_are_names_or_references(given: list[str], tmp_path: Path) -> None:
    """A single name, too: test_no_value_is_ignored."""
    answer = template(tool("helm"), [f"global.imagePullSecrets{one}" for one in given], home=tmp_path)
    assert answer.returncode == 0, answer.stderr
    pod = objects(answer.stdout)["StatefulSet", SERVER]["spec"]["template"]["spec"]
    assert pod["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}]


def test_the_image_is_named_as_dapr_names_it(tmp_path: Path) -> None:
    helm = tool("helm")
    for given, image in {
        "dapr_scheduler.image.name=r.example/raftsched:1": "r.example/raftsched:1",
        "global.registry=r.example,global.tag=2": "r.example/scheduler:2",
        "global.tag=3": "scheduler:3",
        "dapr_scheduler.logLevel=info": f"scheduler:{version.VERSION}",
    }.items():
        made = objects(template(helm, [given], home=tmp_path).stdout)["StatefulSet", SERVER]
        assert made["spec"]["template"]["spec"]["containers"][0]["image"] == image


CLAIM = f"persistentvolumeclaims/dapr-scheduler-data-dir-{SERVER}-0"
SET = f"statefulsets/{SERVER}"


def sized(storage: str) -> dict[str, Any]:
    return {"metadata": {"name": "dapr-scheduler-data-dir"}, "spec": {"resources": {"requests": {"storage": storage}}}}


@pytest.mark.parametrize(
    ("objects_there", "size"),
    [
        ({}, "2Gi"),
        ({CLAIM: {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **sized("16Gi")}}, "16Gi"),
        (
            {
                CLAIM: {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **sized("32Gi")},
                SET: {"apiVersion": "apps/v1", "kind": "StatefulSet", "spec": {"volumeClaimTemplates": [sized("16Gi")]}},
            },
            "16Gi",
        ),
    ],
    ids=["none", "of an earlier chart", "grown by hand"],
)
def test_volumes_that_are_there_keep_their_size(objects_there: dict[str, dict[str, Any]], size: str, tmp_path: Path) -> None:
    """A StatefulSet's templates cannot be changed: an upgrade with another size would fail as a whole."""
    helm = tool("helm")
    with FakeApi(NAMESPACE, objects_there) as api:
        config = str(api.kubeconfig(tmp_path / "kubeconfig"))
        more = ("--dry-run=server", "--kubeconfig", config)
        answer = template(helm, ["dapr_scheduler.cluster.storageSize=2Gi"], home=tmp_path, more=more)
    assert answer.returncode == 0, answer.stderr
    (claim,) = objects(answer.stdout)["StatefulSet", SERVER]["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == size
    assert {path.rpartition(f"/{NAMESPACE}/")[2] for path in api.asked} >= {CLAIM, SET}


def test_kubernetes_knows_every_field() -> None:
    """Read into the types of Kubernetes' own client: an unknown field or a wrong type is an error."""
    program = tool("kubestrict")
    for case in MADE:
        text = (GOLDEN / f"{case}.yaml").read_text()
        answer = subprocess.run([str(program)], input=text, capture_output=True, text=True, timeout=60, check=False)
        assert answer.returncode == 0, answer.stderr
        assert answer.stdout.count("Kind=") == len(golden(case))
    wrong = (GOLDEN / "default.yaml").read_text().replace("readOnlyRootFilesystem", "readonlyRootFilesystem")
    assert subprocess.run([str(program)], input=wrong, capture_output=True, text=True, timeout=60, check=False).returncode == 1


# -- sizes


def test_the_table_of_sizes_keeps_to_the_formula() -> None:
    """That of docs/deployment.md: the log, and twice what jobs and ten minutes of triggers write."""
    rows = re.findall(
        r"(?m)^\| (\d+)Gi \| ([\d,]+)(?: with (\d) KB of data each)? \| ([\d,]+) \| ([\d.]+) GB \|$", (CHART / "README.md").read_text()
    )
    assert [int(row[0]) for row in rows] == [1, 2, 4, 8, 16, 32, 64]
    for volume, jobs, data_kb, triggers, memory_gb in rows:
        count = int(jobs.replace(",", ""))
        stored = count * (500 + (int(data_kb) * 1000 if data_kb else 100)) + int(triggers.replace(",", "")) * 200_000
        assert int(volume) * 2**30 >= 0.7 * 2**30 + 2 * stored, volume
        assert abs(float(memory_gb) - (0.1 + count * 500 / 1e9)) <= 0.11, volume
