"""What can be checked of `deploy/` without a cluster: variables exist, job files are valid, files agree."""

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from ranksieve.api.cli.errors import USAGE
from ranksieve.api.cli.spec_file import load_spec
from ranksieve.service.job.job import JobState
from ranksieve.service.server.metrics import Metrics
from ranksieve.service.server.settings import Settings

DEPLOY = Path(__file__).parents[1] / "deploy"
FILES = sorted(
    file
    for file in DEPLOY.rglob("*")
    if file.is_file() and not {"data", "models", "__pycache__"} & set(file.relative_to(DEPLOY).parts)
)
YAML_FILES = [file for file in FILES if file.suffix == ".yaml"]
EXAMPLES = sorted((DEPLOY / "examples").glob("*.yaml"))
AS_SUBREAPER = """
import ctypes, os, sys
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
os.execv(sys.argv[1], sys.argv[1:])
"""
KNOWN_VARIABLES = {f"RANKSIEVE_{name.upper()}" for name in Settings.model_fields}


MANIFESTS = [
    document
    for file in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(file.read_text())
]
MONITORING = {
    document["kind"]: document
    for file in sorted((DEPLOY / "monitoring").glob("*.yaml"))
    for document in yaml.safe_load_all(file.read_text())
}
COMPOSE = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["services"]["api"]
DOCKERFILE = (DEPLOY / "compose" / "Dockerfile").read_text()
UNIT = (DEPLOY / "systemd" / "ranksieve.service").read_text().splitlines()
PROJECT = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())


def _name(file: Path) -> str:
    return str(file.relative_to(DEPLOY))


def _of(kind: str) -> dict[str, dict[str, Any]]:
    """The manifests of a kind, by name."""
    return {d["metadata"]["name"]: d for d in MANIFESTS if d["kind"] == kind}


DEPLOYMENT = _of("Deployment")["ranksieve"]["spec"]
CLUSTER = _of("RayCluster")["ranksieve-ray"]["spec"]
PODS = {"controller": DEPLOYMENT["template"], "head": CLUSTER["headGroupSpec"]["template"]} | {
    group["groupName"]: group["template"] for group in CLUSTER["workerGroupSpecs"]
}
"""Templates of all pods there are."""
(CONTROLLER,) = PODS["controller"]["spec"]["containers"]
CONTROLLER_ENV = {variable["name"]: variable.get("value") for variable in CONTROLLER["env"]}


def _picked(selector: dict[str, Any]) -> set[str]:
    """The pods that a selector picks."""
    return {
        name
        for name, pod in PODS.items()
        if selector["matchLabels"].items() <= pod["metadata"]["labels"].items()
    }


@pytest.mark.parametrize("file", YAML_FILES, ids=_name)
def test_yaml_parses(file):
    documents = list(yaml.safe_load_all(file.read_text()))

    assert documents
    assert all(isinstance(document, dict) for document in documents)


@pytest.mark.parametrize("file", FILES, ids=_name)
def test_variables_are_settings(file):
    named = set(re.findall(r"RANKSIEVE_[A-Z_]+", file.read_text()))

    assert named <= KNOWN_VARIABLES


@pytest.mark.parametrize("file", EXAMPLES, ids=_name)
def test_example_is_a_valid_job(file):
    spec = load_spec(file)

    assert spec.name


def test_examples_cover_every_kind_and_model_source():
    specs = [load_spec(file) for file in EXAMPLES]

    assert {spec.task.kind for spec in specs} == {"choice", "generate", "lm"}
    paths = [spec.model.path for spec in specs if spec.model.path]
    assert len(paths) < len(specs)
    assert {path.endswith(".gguf") for path in paths} == {True, False}
    assert {spec.objective.kind for spec in specs} == {
        "max_drop",
        "target_params",
        "target_bytes",
        "target_latency",
    }


def test_all_run_one_image_of_this_version():
    images = re.findall(r"ranksieve:(\d[\w.]*)", "".join(file.read_text() for file in FILES))

    assert set(images) == {PROJECT["project"]["version"]}
    on_gpus, others = (
        {
            c["image"]
            for name, pod in PODS.items()
            if (name == "gpu") is gpu
            for c in pod["spec"]["containers"]
        }
        for gpu in (True, False)
    )
    assert others == {COMPOSE["image"]}
    assert on_gpus == {f"{COMPOSE['image']}-cuda"}


def test_another_image_replaces_all_pods():
    assert DEPLOYMENT["strategy"] == {"type": "Recreate"}
    assert CLUSTER["upgradeStrategy"] == {"type": "Recreate"}


def test_image_holds_all_that_is_installed():
    packages = {
        "ranksieve",
        *(link.name for link in (DEPLOY.parent / "ranksieve").iterdir() if link.is_symlink()),
    }
    needed = packages | {"pyproject.toml", PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]}
    copied = {
        name
        for names in re.findall(r"^COPY ([^-].*) \S+$", DOCKERFILE, re.MULTILINE)
        for name in names.split()
    }
    let_in = re.findall(
        r"^!(\S+)$", (DEPLOY / "compose" / "Dockerfile.dockerignore").read_text(), re.MULTILINE
    )

    assert copied == needed
    assert set(let_in) == needed


def test_clusters_version_of_ray_is_one_that_the_image_may_have():
    requirements = map(Requirement, PROJECT["project"]["dependencies"])
    (ray,) = (requirement for requirement in requirements if requirement.name == "ray")

    assert CLUSTER["rayVersion"] in ray.specifier


@pytest.mark.parametrize("pod", PODS)
def test_pod_may_do_no_more_than_it_has_to(pod):
    spec = PODS[pod]["spec"]

    assert spec.get("automountServiceAccountToken", True) is (
        pod == "head"
    )  # its autoscaler asks Kubernetes for pods
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "fsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert [container["securityContext"] for container in spec["containers"]] == [
        {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    ]


@pytest.mark.parametrize("pod", PODS)
def test_pod_mounts_what_there_is(pod):
    spec = PODS[pod]["spec"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    (mounts,) = ({m["name"]: m["mountPath"] for m in c["volumeMounts"]} for c in spec["containers"])
    claims = {
        v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v
    }

    assert mounts.keys() == volumes.keys()
    assert claims <= _of("PersistentVolumeClaim").keys()
    assert {"/data", "/tmp", "/dev/shm"} <= set(mounts.values())
    assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
    assert spec["enableServiceLinks"] is False, "the Service would set RANKSIEVE_PORT to a URL"


def test_every_claim_is_mounted():
    volumes = [volume for pod in PODS.values() for volume in pod["spec"]["volumes"]]
    mounted = {v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v}

    assert mounted == _of("PersistentVolumeClaim").keys()


def test_container_may_do_no_more_than_it_has_to():
    assert re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE) == ["10001:10001"]
    assert COMPOSE["read_only"] is True
    assert COMPOSE["cap_drop"] == ["ALL"]
    assert COMPOSE["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "devices", "user"} & COMPOSE.keys()


@pytest.mark.parametrize(
    "line",
    [
        "User=ranksieve",
        "UMask=0077",
        "StateDirectoryMode=0700",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "AmbientCapabilities=",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "PrivateTmp=yes",
        "ProtectKernelTunables=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelLogs=yes",
        "ProtectControlGroups=yes",
        "ProtectHostname=yes",
        "ProtectProc=invisible",
        "RestrictNamespaces=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "LockPersonality=yes",
        "RemoveIPC=yes",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
        "SystemCallArchitectures=native",
        "SystemCallFilter=@system-service",
    ],
)
def test_unit_may_do_no_more_than_it_has_to(line):
    name, _, _ = line.partition("=")

    assert [each for each in UNIT if each.startswith(f"{name}=")] == [line]


def test_unit_hides_no_gpu_and_no_memory():
    """`ProtectClock` closes all devices but the clock's before systemd 252."""
    hiding = ("ProtectClock", "PrivateDevices", "Device", "MemoryDenyWriteExecute", "ProcSubset")

    assert not [line for line in UNIT if line.startswith(hiding)]


def test_unit_stays_down_with_settings_that_cannot_be():
    assert f"RestartPreventExitStatus={USAGE}" in UNIT


def test_keys_of_the_unit_are_made_in_its_data_directory_by_its_user():
    unit = dict(line.split("=", 1) for line in UNIT if line.startswith(("User=", "ExecStart=")))
    program = unit["ExecStart"].removesuffix(" serve")
    make = f"sudo -u {unit['User']} {program} keys create OWNER --data-dir /var/lib/ranksieve"

    assert re.findall(r"`(.*keys create.*)`", (DEPLOY / "systemd" / "README.md").read_text()) == [make]


def test_selectors_pick_the_pods_they_are_for():
    inside, api = (_of("NetworkPolicy")[name]["spec"] for name in ("ranksieve", "ranksieve-api"))
    (peer,) = (peer for rule in inside["ingress"] for peer in rule["from"])

    assert _picked(DEPLOYMENT["selector"]) == {"controller"}
    assert _picked({"matchLabels": _of("Service")["ranksieve"]["spec"]["selector"]}) == {"controller"}
    assert _picked(api["podSelector"]) == {"controller"}
    assert _picked(inside["podSelector"]) == _picked(peer["podSelector"]) == PODS.keys()
    assert inside["egress"][0] == {"to": inside["ingress"][0]["from"]}


def test_one_port_is_served_published_and_let_in():
    (served,) = re.findall(r"RANKSIEVE_PORT=(\d+)", DOCKERFILE)
    (service,) = _of("Service")["ranksieve"]["spec"]["ports"]
    (ports,) = (rule["ports"] for rule in _of("NetworkPolicy")["ranksieve-api"]["spec"]["ingress"])

    assert re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE) == [served]
    assert COMPOSE["ports"] == [f"127.0.0.1:{served}:{served}"]
    assert CONTROLLER_ENV["RANKSIEVE_PORT"] == served
    assert CONTROLLER["ports"] == [{"name": service["targetPort"], "containerPort": int(served)}]
    assert service["port"] == int(served)
    assert ports == [{"protocol": "TCP", "port": int(served)}]


def test_probes_name_a_host_that_the_server_always_knows():
    probes = [CONTROLLER[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]

    assert [probe["path"] for probe in probes] == ["/healthz", "/healthz", "/readyz"]
    assert {probe["port"] for probe in probes} == {CONTROLLER["ports"][0]["name"]}
    assert all(probe["httpHeaders"] == [{"name": "Host", "value": "localhost"}] for probe in probes)


def test_what_is_kept_and_what_is_read_lies_in_volumes():
    """What lies in the data directory is the server's own: no model there is listed."""
    given = dict(re.findall(r"(\w+)=(\S+)", DOCKERFILE))
    binds = {mount["target"]: mount for mount in COMPOSE["volumes"] if isinstance(mount, dict)}
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTROLLER["volumeMounts"]}
    roots, data_dir = Path(CONTROLLER_ENV["RANKSIEVE_ROOTS"]), Path(CONTROLLER_ENV["RANKSIEVE_DATA_DIR"])

    assert f"data:{given['RANKSIEVE_DATA_DIR']}" in COMPOSE["volumes"]
    assert binds.keys() == {COMPOSE["environment"]["RANKSIEVE_ROOTS"]}
    assert all(mount["read_only"] for mount in binds.values())
    assert all(path.is_relative_to(mounts["data"]) for path in (roots, data_dir, Path(given["HF_HOME"])))
    assert not roots.is_relative_to(data_dir)
    assert CONTROLLER_ENV["RANKSIEVE_DATABASE_URL"].startswith(f"sqlite:///{mounts['db']}/")
    assert "Environment=RANKSIEVE_DATA_DIR=/var/lib/ranksieve" in UNIT
    assert "StateDirectory=ranksieve" in UNIT


def test_ray_asks_for_a_token_and_the_controller_has_it():
    (token,) = (e["valueFrom"] for e in CONTROLLER["env"] if e["name"] == "RAY_AUTH_TOKEN")
    (head,) = PODS["head"]["spec"]["containers"]
    (port,) = (port["containerPort"] for port in head["ports"] if port["name"] == "gcs-server")

    assert CLUSTER["authOptions"] == {"mode": CONTROLLER_ENV["RAY_AUTH_MODE"]}
    assert token == {"secretKeyRef": {"name": "ranksieve-ray", "key": "auth_token"}}
    assert CONTROLLER_ENV["RAY_HEAD"] == f"ranksieve-ray-head-svc:{port}"


def test_token_of_the_hub_is_taken_where_there_is_one():
    (token,) = (e["valueFrom"] for e in CONTROLLER["env"] if e["name"] == "HF_TOKEN")

    assert token == {"secretKeyRef": {"name": "ranksieve", "key": "hf-token", "optional": True}}
    assert COMPOSE["environment"]["HF_TOKEN"] is None  # that of the shell


@pytest.mark.parametrize("way", ["compose", "kubernetes", "systemd"])
def test_token_of_the_hub_is_told_of(way):
    assert re.search("HF_TOKEN|hf-token", (DEPLOY / way / "README.md").read_text())


def test_gpus_are_scaled_from_zero_and_the_head_does_none_of_the_work():
    assert CLUSTER["enableInTreeAutoscaling"] is True
    assert CLUSTER["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = {group["groupName"]: group for group in CLUSTER["workerGroupSpecs"]}
    assert {name: group["minReplicas"] for name, group in groups.items()} == {"cpu": 1, "gpu": 0}
    for group in groups.values():
        assert group["replicas"] == group["minReplicas"] < group["maxReplicas"]
        (container,) = group["template"]["spec"]["containers"]
        limits = container["resources"]["limits"]
        assert container["resources"]["requests"] == limits
        assert ("nvidia.com/gpu" in limits) is (group["groupName"] == "gpu")


def test_dashboard_and_alerts_name_metrics_that_there_are():
    shown = Metrics()
    shown.show_jobs_of(SimpleNamespace(count_jobs=dict))
    there = set(re.findall(r"^# TYPE (\w+) (\w+)", shown.text().decode(), re.MULTILINE))
    names = {name for name, _ in there} | {f"{name}_bucket" for name, kind in there if kind == "histogram"}
    panels = json.loads((DEPLOY / "monitoring" / "dashboard.json").read_text())["panels"]
    (rules,) = (group["rules"] for group in MONITORING["PrometheusRule"]["spec"]["groups"])
    asked = [target["expr"] for panel in panels for target in panel["targets"]] + [
        rule["expr"] for rule in rules
    ]
    used = {name for expression in asked for name in re.findall(r"ranksieve_\w+", expression)}

    assert len(rules) == 6
    assert used <= names
    assert names - used <= {"ranksieve_generation_seconds"} | {
        name for name in names if name.endswith("_created")
    }
    states = {state for one in asked for state in re.findall(r'state="(\w+)"', one)}
    assert states <= set(JobState)


def test_prometheus_reaches_the_metrics():
    (endpoint,) = MONITORING["ServiceMonitor"]["spec"]["endpoints"]
    service = _of("Service")["ranksieve"]
    (rule,) = _of("NetworkPolicy")["ranksieve-api"]["spec"]["ingress"]

    assert endpoint["port"] == service["spec"]["ports"][0]["name"]
    assert endpoint["authorization"]["credentials"] == {"name": "ranksieve", "key": "api-key"}
    picked = MONITORING["ServiceMonitor"]["spec"]["selector"]["matchLabels"]
    assert picked.items() <= service["metadata"]["labels"].items()
    assert any("namespaceSelector" in peer for peer in rule["from"])


def test_only_workers_are_drained_one_at_a_time():
    budget = _of("PodDisruptionBudget")["ranksieve-workers"]["spec"]

    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"]["ray.io/node-type"] == "worker"


def _start_controller(folder: Path, **programs: str) -> subprocess.Popen[str]:
    """The controller's container with these scripts for programs; like the first process, it is given all orphans."""
    for name, code in programs.items():
        (folder / name).write_text(code)
        (folder / name).chmod(0o755)
    given = {name: value for name, value in CONTROLLER_ENV.items() if value is not None}
    path = os.pathsep.join([str(folder), os.path.dirname(sys.executable), os.environ["PATH"]])
    return subprocess.Popen(
        [sys.executable, "-c", AS_SUBREAPER, *CONTROLLER["command"], *CONTROLLER["args"]],
        cwd=folder,
        env={**os.environ, **given, "PATH": path},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only the first process is given orphans")
def test_controller_ends_with_its_node_of_the_cluster(tmp_path):
    for pipe in ("started", "orders"):
        os.mkfifo(tmp_path / pipe)
    serve = f"""#!{sys.executable}
import pathlib, psutil, signal, sys
raylet = psutil.Process(int(pathlib.Path("raylet.pid").read_text()))
signal.signal(signal.SIGTERM, lambda *_: print("ended, the raylet is a", raylet.status(), flush=True))
print(*sys.argv[1:], flush=True)
while True: signal.pause()
"""
    controller = _start_controller(
        tmp_path,
        ray="#!/bin/sh\nraylet & echo $! > raylet.pid; read started < started\n",
        raylet="#!/bin/sh\necho yes > started; read order < orders\n",
        ranksieve=serve,
    )
    with controller:
        try:
            assert controller.stdout.readline() == "serve\n"
            os.kill(int((tmp_path / "raylet.pid").read_text()), signal.SIGKILL)
            assert controller.stdout.readline() == "ended, the raylet is a zombie\n"
        finally:
            os.killpg(controller.pid, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only the first process is given orphans")
def test_controller_serves_only_as_a_node_of_the_cluster(tmp_path):
    controller = _start_controller(tmp_path, ray="#!/bin/sh\nexit 1\n", ranksieve="#!/bin/sh\necho serves\n")
    output, _ = controller.communicate()

    assert output == ""
    assert controller.returncode == 1


def test_server_unit_and_image_start_the_same_command():
    assert "ExecStart=/opt/ranksieve/.venv/bin/ranksieve serve" in UNIT
    assert 'CMD ["ranksieve", "serve"]' in DOCKERFILE
    assert CONTROLLER["args"][0].rstrip().endswith("exec ranksieve serve")
