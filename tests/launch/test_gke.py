"""Laws of a JobSet: the API takes it, and it asks for the hosts and chips of the topology."""

import base64
import hashlib
import json
import pathlib
import re
import subprocess

import pytest

from bigmodel import config, costs, launch
from bigmodel.launch import gke
from tests.launch import jobs, schemas

KINDS = (
    ("v4:2x2x1", 1, 1, 4, "tpu-v4-podslice"),
    ("v5p:4x4x4", 1, 16, 4, "tpu-v5p-slice"),
    ("v5p:8x8x8", 3, 128, 4, "tpu-v5p-slice"),
    ("v5e:2x4", 1, 1, 8, "tpu-v5-lite-podslice"),
    ("v5e:4x4", 2, 4, 4, "tpu-v5-lite-podslice"),
    ("v5e:1x1", 1, 1, 1, "tpu-v5-lite-podslice"),
    ("v6e:16x16", 1, 64, 4, "tpu-v6e-slice"),
    ("tpu7x:2x2x4", 1, 4, 4, "tpu7x"),
)


def parts(manifest):
    workers = manifest["spec"]["replicatedJobs"][0]
    pod = workers["template"]["spec"]["template"]["spec"]
    return workers["replicas"], workers["template"]["spec"], pod, pod["containers"][0]


@pytest.mark.parametrize(("name", "slices", "hosts", "chips", "label"), KINDS)
def test_a_slice_is_a_job_with_a_pod_a_host(name, slices, hosts, chips, label):
    job = jobs.make(name, slices)
    manifest = gke.manifest(job, jobs.SNAPSHOT)
    assert schemas.faults(schemas.jobset(), manifest) == []
    replicas, work, pod, container = parts(manifest)
    assert (replicas, work["parallelism"], work["completions"]) == (slices, hosts, hosts)
    assert container["resources"]["limits"] == {"google.com/tpu": chips}
    assert replicas * hosts * chips == job.topology.chips
    shape = name.partition(":")[2]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": label,
        "cloud.google.com/gke-tpu-topology": shape,
    }
    # jax finds the others by what GKE sets; two ways would contradict each other
    assert "BIGMODEL_PROCESS" not in json.dumps(manifest)


@pytest.mark.parametrize(
    ("status", "action"),
    [
        (2, "FailJobSet"),
        (143, "RestartJobSetAndIgnoreMaxRestarts"),
        ("DisruptionTarget", "RestartJobSetAndIgnoreMaxRestarts"),
        (1, "counted"),
        (75, "counted"),
        (139, "counted"),
    ],
)
def test_what_comes_of_a_pod_that_fails(status, action):
    """As Kubernetes and JobSet go through the rules, the first that fits, with their messages."""
    manifest = gke.manifest(jobs.make("v5p:4x4x4"), jobs.SNAPSHOT)
    policy = manifest["spec"]["failurePolicy"]
    rules = parts(manifest)[1]["podFailurePolicy"]["rules"]
    reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    for index, rule in enumerate(rules):
        end = f"matching FailJob rule at index {index}"
        if status in rule.get("onExitCodes", {}).get("values", ()):
            reason = "PodFailurePolicy"
            message = f"Container main for pod d/p-0 failed with exit code {status} {end}"
            break
        if {"type": status, "status": "True"} in rule.get("onPodConditions", ()):
            reason = "PodFailurePolicy"
            message = f"Pod d/p-0 has condition {status} {end}"
            break
    found = "counted"
    for rule in policy["rules"]:
        patterns = rule.get("onJobFailureMessagePatterns", [""])
        if reason in rule["onJobFailureReasons"] and any(re.search(p, message) for p in patterns):
            found = rule["action"]
            break
    assert found == action
    assert policy["maxRestarts"] == jobs.make("v5p:4x4x4").restarts


def test_every_generation_that_plan_knows_can_be_launched():
    for kind, generation in costs.GENERATIONS.items():
        shape = "x".join(map(str, generation.most))
        manifest = gke.manifest(jobs.make(f"{kind}:{shape}"), jobs.SNAPSHOT)
        assert schemas.faults(schemas.jobset(), manifest) == []


@pytest.mark.parametrize("gpu", gke.GPUS)
def test_a_gpu_node_is_a_pod_that_knows_where_the_first_is(gpu):
    manifest = gke.manifest(jobs.make(f"gpu:{gpu}:3x8"), jobs.SNAPSHOT)
    assert schemas.faults(schemas.jobset(), manifest) == []
    replicas, work, pod, container = parts(manifest)
    assert (replicas, work["parallelism"]) == (1, 3)
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert list(pod["nodeSelector"].values()) == [gke.GPUS[gpu]]
    variables = {row["name"]: row.get("value", row.get("valueFrom")) for row in container["env"]}
    assert variables["BIGMODEL_COORDINATOR"] == "run-workers-0-0.run:8476"
    assert variables["BIGMODEL_PROCESSES"] == "3"
    assert "job-completion-index" in variables["BIGMODEL_PROCESS"]["fieldRef"]["fieldPath"]
    assert manifest["spec"]["network"]["enableDNSHostnames"]


def test_gpus_are_those_of_the_plan():
    from bigmodel.plan import gpus

    assert set(gke.GPUS) == set(gpus.TARGETS)


def test_a_failed_pod_restarts_all_and_a_refused_input_ends_them():
    manifest = gke.manifest(jobs.make("v5e:4x4", restarts=7, grace_seconds=300), jobs.SNAPSHOT)
    _, work, pod, _ = parts(manifest)
    assert work["backoffLimit"] == 0
    assert work["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [2]
    policy = manifest["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 7
    assert policy["rules"][0]["action"] == "FailJobSet"
    assert policy["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert pod["restartPolicy"] == "Never"  # a podFailurePolicy asks for it
    assert pod["terminationGracePeriodSeconds"] == 300


def test_slices_keep_to_their_own_node_pools():
    (annotation,) = gke.manifest(jobs.make("v5e:4x4", 2), jobs.SNAPSHOT)["metadata"][
        "annotations"
    ].items()
    assert annotation == (
        "alpha.jobset.sigs.k8s.io/exclusive-topology",
        "cloud.google.com/gke-nodepool",
    )


def test_accounts_buckets_claims_and_spot_nodes_stand_in_the_pod():
    given = dict(service_account="trainer", spot=True, buckets=("data=/mnt/data",))
    job = jobs.make("v5p:4x4x4", volumes=("fast=/fast",), **given)
    manifest = gke.manifest(job, jobs.SNAPSHOT)
    assert schemas.faults(schemas.jobset(), manifest) == []
    _, work, pod, container = parts(manifest)
    assert pod["serviceAccountName"] == "trainer"
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert work["template"]["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    mounts = {row["mountPath"]: row["name"] for row in container["volumeMounts"]}
    volumes = {row["name"]: row for row in pod["volumes"]}
    assert volumes[mounts["/mnt/data"]]["csi"]["volumeAttributes"] == {"bucketName": "data"}
    assert volumes[mounts["/fast"]]["persistentVolumeClaim"] == {"claimName": "fast"}
    assert set(mounts.values()) == set(volumes)


def test_the_code_goes_along_under_its_hash():
    job = jobs.make("v5e:4x4")
    items = json.loads(gke.files(job, jobs.SNAPSHOT)[gke.MANIFEST])["items"]
    kept, manifest = items
    ((name, text),) = kept["binaryData"].items()
    content = base64.b64decode(text)
    assert name == f"{hashlib.sha256(content).hexdigest()}.tar.gz"
    _, _, pod, container = parts(manifest)
    volumes = {row["name"]: row for row in pod["volumes"]}
    assert volumes["snapshot"]["configMap"]["name"] == kept["metadata"]["name"]
    assert name in container["command"][-1]
    assert "sha256sum --check" in container["command"][-1]


def test_a_container_checks_the_code_and_becomes_the_command(tmp_path, monkeypatch):
    (tmp_path / "bigmodel").mkdir()
    snapshot = launch.pack("configs/gpt.py", tmp_path)
    (tmp_path / snapshot.name).write_bytes(snapshot.content)
    monkeypatch.setattr(gke, "CODE", str(tmp_path / "code"))
    given = dict(python="echo", environment=("A=b c",), setup='test "$A" = "b c"')
    shell = gke.inner(jobs.make("v5e:4x4", config=snapshot.config, **given), snapshot)
    shell = shell.replace("/bigmodel-snapshot", str(tmp_path))
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    path = done.stdout.split()[5]
    assert done.stdout.startswith("-P -m bigmodel train --config")
    assert pathlib.Path(path).read_text() == pathlib.Path("configs/gpt.py").read_text()
    (tmp_path / snapshot.name).write_bytes(b"other")
    assert subprocess.run(["bash", "-c", shell], capture_output=True).returncode == 1


@pytest.mark.parametrize(
    ("name", "slices", "fields", "said"),
    [
        ("v5e:4x4", 1, dict(image=""), "--image"),
        ("v5p:2x2x1", 2, {}, "several hosts"),
        ("cpu:8", 1, {}, "launch local"),
        ("v5e:4x4", 1, dict(workdir="/home/me/run"), "do not share"),
    ],
)
def test_what_cannot_run_is_refused(name, slices, fields, said):
    with pytest.raises(config.InputError, match=said):
        gke.manifest(jobs.make(name, slices, **fields), jobs.SNAPSHOT)


def test_a_workdir_in_a_mounted_bucket_will_do():
    job = jobs.make("v5e:4x4", workdir="/mnt/data/run", buckets=("data=/mnt/data/",))
    assert schemas.faults(schemas.jobset(), gke.manifest(job, jobs.SNAPSHOT)) == []


def test_code_that_a_config_map_does_not_hold_is_refused():
    large = launch.Snapshot(bytes(gke.CONFIG_MAP_BYTES + 1), "a.py")
    with pytest.raises(config.InputError, match="1,048,577 bytes"):
        gke.files(jobs.make("v5e:4x4"), large)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["spec"].update(replicas=1), "has no field replicas"),
        (lambda m: parts(m)[1].update(parallelism="4"), "'4' is no integer"),
        (lambda m: parts(m)[3].pop("name"), "misses name"),
        (lambda m: m["spec"]["failurePolicy"]["rules"][0].update(action="Fail"), "not allowed"),
        (lambda m: m["spec"]["failurePolicy"]["rules"][0].pop("name"), "misses name"),
    ],
)
def test_the_schema_tells_a_manifest_that_is_none(change, said):
    manifest = gke.manifest(jobs.make("v5e:4x4"), jobs.SNAPSHOT)
    change(manifest)
    assert any(said in fault for fault in schemas.faults(schemas.jobset(), manifest))
