"""What can be checked of `deploy/` without a cluster: files parse, variables exist, job files are valid."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.spec_file import load_spec
from service.settings import Settings

DEPLOY = Path(__file__).parents[1] / "deploy"
FILES = sorted(file for file in DEPLOY.rglob("*") if file.is_file())
YAML_FILES = [file for file in FILES if file.suffix == ".yaml"]
EXAMPLES = sorted((DEPLOY / "examples").glob("*.yaml"))
AS_SUBREAPER = """
import ctypes, os, sys
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
os.execv(sys.argv[1], sys.argv[1:])
"""
KNOWN_VARIABLES = {f"RANKSIEVE_{name.upper()}" for name in Settings.model_fields}


def _name(file: Path) -> str:
    return str(file.relative_to(DEPLOY))


def _manifests() -> list[dict[str, Any]]:
    files = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    return [document for file in files for document in yaml.safe_load_all(file.read_text())]


def _pods() -> list[dict[str, Any]]:
    """Pod specs of the controller, the head and the workers."""
    owners = [document["spec"] for document in _manifests() if document["kind"] == "Deployment"]
    for cluster in (document["spec"] for document in _manifests() if document["kind"] == "RayCluster"):
        owners += [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [owner["template"]["spec"] for owner in owners]


def _controller() -> dict[str, Any]:
    """The controller's container."""
    (deployment,) = (document for document in _manifests() if document["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return container


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
    assert {name for spec in specs for name in ("hub", "path", "gguf") if getattr(spec.model, name)} == {
        "hub",
        "path",
        "gguf",
    }
    assert {spec.objective.kind for spec in specs} == {
        "max_drop",
        "target_params",
        "target_bytes",
        "target_latency",
    }


def test_containers_run_without_root():
    dockerfile = (DEPLOY / "compose" / "Dockerfile").read_text()
    pods = [
        document["spec"]["template"]["spec"] for document in _manifests() if document["kind"] == "Deployment"
    ]
    for cluster in (document["spec"] for document in _manifests() if document["kind"] == "RayCluster"):
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        pods += [group["template"]["spec"] for group in groups]

    assert re.findall(r"^USER (\S+)", dockerfile, re.MULTILINE) == ["10001:10001"]
    assert len(pods) == 3
    assert all(pod["securityContext"]["runAsNonRoot"] for pod in pods)


def test_no_pod_has_variables_made_of_services():
    """A Service named ranksieve would set RANKSIEVE_PORT to a URL."""
    assert all(pod["enableServiceLinks"] is False for pod in _pods())


def test_claims_that_pods_mount_exist():
    claims = {d["metadata"]["name"] for d in _manifests() if d["kind"] == "PersistentVolumeClaim"}
    mounted = set(re.findall(r"claimName: ([a-z-]+)", "".join(f.read_text() for f in YAML_FILES)))

    assert mounted == claims


def test_probes_name_a_host_that_the_server_always_knows():
    container = _controller()
    probes = [container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]

    assert [probe["path"] for probe in probes] == ["/healthz", "/healthz", "/readyz"]
    assert all(probe["httpHeaders"] == [{"name": "Host", "value": "localhost"}] for probe in probes)


def test_inputs_lie_beside_the_data_directory_and_not_in_it():
    """What lies in it is the server's own: no model there is listed."""
    environment = {e["name"]: e.get("value") for e in _controller()["env"]}

    assert not Path(environment["RANKSIEVE_ROOTS"]).is_relative_to(environment["RANKSIEVE_DATA_DIR"])


def test_ray_asks_for_a_token_and_the_controller_has_it():
    (cluster,) = (document for document in _manifests() if document["kind"] == "RayCluster")
    environment = {e["name"]: e for e in _controller()["env"]}

    assert cluster["spec"]["authOptions"] == {"mode": "token"}
    token = environment["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
    assert token == {"name": cluster["metadata"]["name"], "key": "auth_token"}
    assert environment["RAY_HEAD"]["value"].startswith(f"{cluster['metadata']['name']}-head-svc:")


def test_workers_have_a_fixed_number_and_the_head_none_of_the_work():
    (cluster,) = (document["spec"] for document in _manifests() if document["kind"] == "RayCluster")

    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]


def _start_controller(folder: Path, **programs: str) -> subprocess.Popen[str]:
    """The controller's container with these scripts for programs; like the first process, it is given all orphans."""
    for name, code in programs.items():
        (folder / name).write_text(code)
        (folder / name).chmod(0o755)
    container = _controller()
    given = {e["name"]: e["value"] for e in container["env"] if "value" in e}
    path = os.pathsep.join([str(folder), os.path.dirname(sys.executable), os.environ["PATH"]])
    return subprocess.Popen(
        [sys.executable, "-c", AS_SUBREAPER, *container["command"], *container["args"]],
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
    unit = (DEPLOY / "systemd" / "ranksieve.service").read_text()
    dockerfile = (DEPLOY / "compose" / "Dockerfile").read_text()

    assert re.search(r"^ExecStart=\S+/bin/ranksieve serve$", unit, re.MULTILINE)
    assert 'CMD ["ranksieve", "serve"]' in dockerfile
