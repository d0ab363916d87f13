"""What lies in deploy/ for clusters: whole by the schema of who reads it, with commands that can be given, and without secrets.

Ray's schema comes with Ray. KubeRay's and compose's are not kept here: of them, fields by name, kinds and values are held against
what KubeRay 1.6 and the Compose Specification have of those that the samples use.
"""

from __future__ import annotations

import copy
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import fillout_defaults, validate_config

from tune.launching import arguments

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose" / "docker-compose.yml"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
RAY_UP = sorted((DEPLOY / "ray_up").glob("*.yaml"))
SLURM = DEPLOY / "slurm" / "search.sbatch"
PAGE = ROOT / "docs" / "DEPLOY.md"
FILES = [path for folder in ("compose", "kubernetes", "ray_up", "slurm") for path in (DEPLOY / folder).iterdir()]
TEXTS = [path for path in FILES if path.is_file() and path.name != ".env"]

Yaml = dict[str, Any]


def documents(path: Path) -> list[Yaml]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def document(path: Path, kind: str) -> Yaml:
    return next(each for each in documents(path) if each["kind"] == kind)


def pinned(name: str) -> str:
    """The version that the lock has."""
    found = re.search(rf"^{name}==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


# ray up


@pytest.mark.parametrize("path", RAY_UP, ids=lambda path: path.name)
def test_ray_takes_its_file(path):
    (config,) = documents(path)
    validate_config(fillout_defaults(config))


def test_ray_refuses_a_field_that_it_does_not_know():
    (config,) = documents(RAY_UP[0])
    with pytest.raises(jsonschema.ValidationError):
        validate_config(fillout_defaults({**config, "workers": 3}))


@pytest.mark.parametrize("path", RAY_UP, ids=lambda path: path.name)
def test_what_is_started_by_ray_up_asks_for_the_token_that_is_copied_there(path):
    (config,) = documents(path)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    starts = [config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]]
    assert all("RAY_AUTH_MODE=token " in start for start in starts)


# Kubernetes: fields of ray.io/v1 that a sample may use, and of which values
STRATEGY = {"K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"}
JOB = {
    "entrypoint", "submissionMode", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec",
    "activeDeadlineSeconds", "runtimeEnvYAML", "suspend",
}  # fmt: skip
CLUSTER = {
    "rayVersion",
    "authOptions",
    "enableInTreeAutoscaling",
    "autoscalerOptions",
    "headGroupSpec",
    "workerGroupSpecs",
    "suspend",
}
HEAD = {"serviceType", "rayStartParams", "template", "resources", "labels", "enableIngress"}
WORKERS = {
    "groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template", "resources", "labels",
    "idleTimeoutSeconds", "numOfHosts", "priority",
}  # fmt: skip
AUTOSCALER = {"version", "upscalingMode", "idleTimeoutSeconds", "resources", "env", "envFrom", "image"}
POD = {
    "containers", "volumes", "securityContext", "restartPolicy", "automountServiceAccountToken", "nodeSelector", "tolerations",
}  # fmt: skip
CONTAINER = {"name", "image", "resources", "securityContext", "env", "volumeMounts", "command", "args", "ports"}


def kuberay_faults(resource: Yaml) -> Iterator[str]:
    """What the operator would refuse or leave out of a RayJob or a RayCluster."""
    if resource["apiVersion"] != "ray.io/v1":
        yield "apiVersion"
    spec = resource["spec"]
    if resource["kind"] == "RayJob":
        yield from spec.keys() - JOB
        if spec["submissionMode"] not in STRATEGY:
            yield "submissionMode"
        if spec.get("ttlSecondsAfterFinished") and not spec.get("shutdownAfterJobFinishes"):
            yield "ttlSecondsAfterFinished without shutdownAfterJobFinishes"
        spec = spec["rayClusterSpec"]
    yield from spec.keys() - CLUSTER
    yield from spec.get("autoscalerOptions", {}).keys() - AUTOSCALER
    if spec["authOptions"]["mode"] not in ("token", "disabled"):
        yield "authOptions.mode"
    yield from spec["headGroupSpec"].keys() - HEAD
    for group in spec["workerGroupSpecs"]:
        yield from group.keys() - WORKERS
        if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            yield "replicas"
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        if not all(isinstance(value, str) for value in group["rayStartParams"].values()):
            yield "rayStartParams must be texts"
        yield from pod_faults(group["template"]["spec"])


def pod_faults(pod: Yaml) -> Iterator[str]:
    yield from pod.keys() - POD
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    for container in pod["containers"]:
        yield from container.keys() - CONTAINER
        yield from {mount["name"] for mount in container.get("volumeMounts", [])} - volumes
        for quantities in container["resources"].values():
            if not all(re.fullmatch(r"\d+(m|Ki|Mi|Gi)?", str(value)) for value in quantities.values()):
                yield "resources"


def ray_resources() -> list[Any]:
    found = [each for path in KUBERNETES for each in documents(path) if each["kind"] in ("RayJob", "RayCluster")]
    return [pytest.param(each, id=each["kind"]) for each in found]


@pytest.mark.parametrize("resource", ray_resources())
def test_kuberay_takes_a_sample(resource):
    assert list(kuberay_faults(resource)) == []


@pytest.mark.parametrize("resource", ray_resources())
def test_the_cluster_has_this_ray_asks_for_a_token_and_runs_without_rights(resource):
    spec = resource["spec"].get("rayClusterSpec", resource["spec"])
    assert (spec["rayVersion"], spec["authOptions"]) == (pinned("ray"), {"mode": "token"})
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["containers"][0]["securityContext"]["allowPrivilegeEscalation"]


def mutated(change: Callable[[Yaml], object]) -> Yaml:
    job = copy.deepcopy(document(DEPLOY / "kubernetes" / "rayjob.yaml", "RayJob"))
    change(job["spec"])
    return job


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda spec: spec.update(submissionMode="K8SJobMode"), "submissionMode"),
        (lambda spec: spec.update(entryPoint="x"), "entryPoint"),
        (lambda spec: spec["rayClusterSpec"]["workerGroupSpecs"][0].update(replicas=3), "replicas"),
        (
            lambda spec: spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
            "rayStartParams must be texts",
        ),
        (lambda spec: spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"].update(volumes=[]), "work"),
        (lambda spec: spec.pop("shutdownAfterJobFinishes"), "ttlSecondsAfterFinished without shutdownAfterJobFinishes"),
    ],
)
def test_what_kuberay_would_not_take_is_found(change, fault):
    assert list(kuberay_faults(mutated(change))) == [fault]


def test_ray_s_autoscaler_reads_the_cluster_as_it_is_meant():
    cluster = document(DEPLOY / "kubernetes" / "raycluster-autoscaling.yaml", "RayCluster")
    cluster["metadata"]["namespace"] = "default"
    config = _derive_autoscaling_config_from_ray_cr(cluster)
    types = config["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert (types["gpu"]["min_workers"], types["gpu"]["max_workers"], types["gpu"]["resources"]["GPU"]) == (0, 8, 1)
    assert config["idle_timeout_minutes"] == 15


def test_a_search_waits_for_no_more_gpus_than_its_job_has():
    spec = document(DEPLOY / "kubernetes" / "rayjob.yaml", "RayJob")["spec"]
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    asked = arguments.parsed(shlex.split(spec["entrypoint"])[2:], "").wait_for_gpus
    assert asked == group["maxReplicas"] * int(limits["nvidia.com/gpu"])


def test_all_pods_use_the_same_disk_and_image():
    text = "".join(path.read_text() for path in KUBERNETES)
    assert set(re.findall(r"claimName: ([\w-]+)", text)) == {"reranker-work"}
    assert set(re.findall(r"image: (\S+)", text)) == {"registry.example.com/reranker-tuner:0.1.0-cuda"}


# docker compose


def services() -> dict[str, Yaml]:
    found: dict[str, Yaml] = documents(COMPOSE)[0]["services"]
    return found


def compose_faults(all_of_it: Yaml) -> Iterator[str]:
    """What docker compose would refuse, or what would be open to others."""
    parts = all_of_it["services"]
    for name, service in parts.items():
        for port in service.get("ports", []):
            if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port):
                yield f"{name}: {port} is open to other machines"
        tag = service["image"].partition(":")[2]
        if not re.search(r"\d", tag):
            yield f"{name}: {service['image']} has no version"
        for other, how in service.get("depends_on", {}).items():
            if other not in parts:
                yield f"{name}: there is no {other}"
            elif how["condition"] == "service_healthy" and "healthcheck" not in parts[other]:
                yield f"{name}: {other} has no health check"
        yield from (f"{name}: no network {each}" for each in set(service["networks"]) - all_of_it["networks"].keys())
        mounts = {mount.partition(":")[0] for mount in service.get("volumes", [])}
        yield from (f"{name}: no volume {each}" for each in mounts - all_of_it["volumes"].keys())
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|TOKEN|SECRET|ACCESS_KEY", variable) and not re.fullmatch(
                r"\$\{\w+:\?set it in \.env\}", value
            ):
                yield f"{name}: {variable} does not come from .env"


def test_compose_s_file_is_whole_and_closed():
    assert list(compose_faults(documents(COMPOSE)[0])) == []


@pytest.mark.parametrize(
    ("service", "change", "fault"),
    [
        ("head", {"ports": ["8265:8265"]}, "head: 8265:8265 is open to other machines"),
        ("mlflow", {"ports": ["0.0.0.0:5000:5000"]}, "mlflow: 0.0.0.0:5000:5000 is open to other machines"),
        ("minio", {"image": "minio/minio"}, "minio: minio/minio has no version"),
        ("minio", {"image": "minio/minio:latest"}, "minio: minio/minio:latest has no version"),
        (
            "postgres",
            {"environment": {"POSTGRES_PASSWORD": "mlflow"}},
            "postgres: POSTGRES_PASSWORD does not come from .env",
        ),
        ("worker", {"depends_on": {"bucket": {"condition": "service_healthy"}}}, "worker: bucket has no health check"),
        ("worker", {"networks": ["searches"]}, "worker: no network searches"),
    ],
)
def test_what_would_be_open_or_broken_is_found(service, change, fault):
    (config,) = documents(COMPOSE)
    config["services"][service] |= change
    assert list(compose_faults(config)) == [fault]


def test_every_variable_of_compose_is_in_the_example_which_has_no_password():
    used = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    lines = re.findall(r"^(\w+)=(.*)$", (DEPLOY / "compose" / ".env.example").read_text(), re.MULTILINE)
    assert {name for name, _ in lines} == used
    assert {name for name, value in lines if not value} == {
        "POSTGRES_PASSWORD",
        "MINIO_ROOT_PASSWORD",
        "RAY_AUTH_TOKEN",
    }


def test_the_server_of_mlflow_is_the_search_s_version():
    dockerfile = (DEPLOY / "compose" / "mlflow.Dockerfile").read_text()
    assert f"mlflow=={pinned('mlflow')} " in dockerfile
    assert services()["mlflow"]["image"].endswith(f":{pinned('mlflow')}")
    assert services()["bucket"]["image"] == services()["mlflow"]["image"]
    assert all("==" in word for word in re.findall(r"pip install --no-cache-dir (.+?) \\", dockerfile)[0].split())


def test_gpus_are_for_services_that_there_are():
    (extra,) = documents(DEPLOY / "compose" / "gpu.yml")
    assert extra["services"].keys() <= services().keys()
    assert len({service["image"] for service in extra["services"].values()}) == 1, "nodes must have the same torch"


# Slurm


def test_the_script_is_one():
    assert subprocess.run(["bash", "-n", str(SLURM)], check=False).returncode == 0


def test_slurm_s_job_has_a_token_of_its_own_that_is_on_no_command_line():
    text = SLURM.read_text()
    assert "secrets.token_hex(32)" in text
    lines = [line for line in text.splitlines() if "RAY_AUTH_TOKEN" in line]
    assert [line.split("=")[0].split(" ")[0] for line in lines] == ["RAY_AUTH_TOKEN", "export"]


# All of them


def searches() -> list[tuple[str, list[str]]]:
    """Each search that a sample or the page shows, with what stands in for the variables of a shell."""
    found = []
    for path in (*TEXTS, PAGE):
        text = re.sub(r"\\\n\s*", " ", path.read_text(encoding="utf-8"))
        for line in re.findall(r"(?:reranker-tuner|bin/reranker-tuner) search ([^`'\n]+)", text):
            plain = line.removesuffix('"') if line.count('"') % 2 else line  # of a command within a command
            plain = plain.replace('"$@"', "study.yaml").replace('"${wanted[@]}" &', "--wait-for-gpus 8")
            words = shlex.split(plain.replace('"$address:$port"', "192.0.2.1:6379"), comments=True)
            found.append((path.name, [word for word in words if word != "&"]))
    return found


def test_every_search_that_is_shown_can_be_given():
    assert {name for name, _ in searches()} >= {"rayjob.yaml", "search.sbatch", "DEPLOY.md"}
    for name, words in searches():
        args = arguments.parsed(words, "")
        assert args.address or args.copy_to, f"{name}: a search on a cluster, or whose study outlives its machine"


def test_an_option_that_a_search_does_not_have_is_found():
    with pytest.raises(SystemExit):
        arguments.parsed(["study.yaml", "--address", "auto", "--gpus", "2"], "")


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_nothing_secret_and_no_address_of_somebody_is_in_it(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"AKIA|hf_\w{10}|PRIVATE KEY-----|\b[0-9a-f]{32,}\b", text)
    addresses = set(re.findall(r"\b\d+\.\d+\.\d+\.\d+\b", text))
    assert {each for each in addresses if not each.startswith("192.0.2.")} <= {"127.0.0.1", "0.0.0.0", "127.0.1.1"}
    assert not re.search(r"dashboard-host=0\.0\.0\.0", text) or path == COMPOSE, "in a container it may"


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_the_page_says_what_it_is_for(path):
    assert path.relative_to(ROOT).as_posix() in PAGE.read_text(encoding="utf-8") or path.name == ".env.example"
