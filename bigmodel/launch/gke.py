"""A job on Google Kubernetes Engine: a JobSet for TPU slices or a pool of GPU nodes.

JobSet: jobset.sigs.k8s.io/docs; TPU slices: cloud.google.com/kubernetes-engine/docs/how-to/tpus
and .../tpu-multislice: where a JobSet asks for google.com/tpu, GKE itself sets TPU_WORKER_ID,
TPU_WORKER_HOSTNAMES and, for several slices, the MEGASCALE variables, which jax reads.
"""

import base64
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from bigmodel import config, costs
from bigmodel.launch import job as jobs
from bigmodel.launch import statuses
from bigmodel.launch.job import Job
from bigmodel.launch.snapshot import Snapshot

MANIFEST = "manifest.json"  # which kubectl takes as it takes YAML
CONFIG_MAP_BYTES = 2**20  # kubernetes.io/docs/concepts/configuration/configmap
SELECTOR = "jobset.sigs.k8s.io/jobset-name"
NODE_POOL = "cloud.google.com/gke-nodepool"
PORT = 8476  # of the coordinator, jax's own choice on Kubernetes
# Values of the node label cloud.google.com/gke-accelerator
# (cloud.google.com/kubernetes-engine/docs/how-to/gpus).
GPUS = {
    "a100": "nvidia-a100-80gb",
    "h100": "nvidia-h100-80gb",
    "h200": "nvidia-h200-141gb",
    "b200": "nvidia-b200",
}
CODE = "/tmp/bigmodel-code"
# Each on a line of its own: where "&&" joins commands, set -e ends the shell for the last alone.
UNPACK = """set -e
cd /bigmodel-snapshot
echo "{hash}  {name}" | sha256sum --check --quiet -
mkdir -p {code}
tar -xzf {name} -C {code}
cd "$OLDPWD"
"""


def files(job: Job, snapshot: Snapshot) -> dict[str, str]:
    documents = {"apiVersion": "v1", "kind": "List"} | {
        "items": [config_map(job, snapshot), manifest(job, snapshot)]
    }
    return {MANIFEST: json.dumps(documents, indent=1) + "\n"}


def manifest(job: Job, snapshot: Snapshot) -> dict[str, Any]:
    """The JobSet.

    Every slice is a Job, with a pod a host. A pod that fails fails its Job, and that restarts all
    Jobs; status 2, a refused input, ends them. A preemption, which the pods survive with status
    143 or are told of by a condition, restarts them as often as it comes
    (jobset.sigs.k8s.io/docs/tasks/failure_policy).

    Raises:
        InputError: devices that GKE does not have, or a job without an image.
    """
    jobs.only(job, "gke", ("tpu", "gpu"), "Simulated devices run with launch local.")
    if not job.image:
        raise config.InputError(
            "launch gke: needs --image NAME, a container with Python and what bigmodel needs."
        )
    jobs.shared(job, "gke", ", or a folder under a --bucket or --volume")
    where = job.topology
    tpu = where.platform == "tpu"
    slices = where.slices if tpu else 1
    hosts = where.hosts // slices
    if slices > 1 and hosts == 1:
        raise config.InputError(
            f"--topology={where.name} --slices={slices}: several slices are joined on GKE where "
            "each has several hosts (cloud.google.com/kubernetes-engine/docs/how-to/"
            f"tpu-multislice), and {where.name} has one."
        )
    workers = {
        "parallelism": hosts,
        "completions": hosts,
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                fail_job(statuses.REFUSED),
                fail_job(statuses.TERMINATED),
                {
                    "action": "FailJob",
                    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                },
            ]
        },
        "template": {
            "metadata": {"annotations": {"gke-gcsfuse/volumes": "true"} if job.buckets else {}},
            "spec": pod(job, snapshot, hosts),
        },
    }
    # One slice is one node pool: its chips are wired to each other and to no others.
    exclusive = {"alpha.jobset.sigs.k8s.io/exclusive-topology": NODE_POOL} if tpu else {}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": job.name,
            "namespace": job.namespace,
            "labels": {"app": "bigmodel", "bigmodel-snapshot": snapshot.hash[:12]},
            "annotations": exclusive,
        },
        "spec": {
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "failurePolicy": {
                "maxRestarts": job.restarts,
                "rules": [
                    {
                        "name": "refused",
                        "action": "FailJobSet",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                        # "Container ... failed with exit code 2 matching FailJob rule at index 0"
                        "onJobFailureMessagePatterns": [f"exit code {statuses.REFUSED} matching"],
                    },
                    {
                        "name": "preempted",
                        "action": "RestartJobSetAndIgnoreMaxRestarts",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                    },
                ],
            },
            "replicatedJobs": [
                {"name": "workers", "replicas": slices, "template": {"spec": workers}}
            ],
        },
    }


def fail_job(status: int) -> dict[str, Any]:
    return {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [status]}}


def pod(job: Job, snapshot: Snapshot, hosts: int) -> dict[str, Any]:
    where = job.topology
    tpu = where.platform == "tpu"
    count = where.chips_per_host
    resource = {"google.com/tpu" if tpu else "nvidia.com/gpu": count}
    mounts, volumes = storage(job, snapshot)
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": job.grace_seconds,
        "nodeSelector": selectors(job),
        "containers": [
            {
                "name": "train",
                "image": job.image,
                "command": ["bash", "-c", inner(job, snapshot)],
                "env": environment(job, hosts),
                "ports": [{"containerPort": port} for port in ((8471, 8080) if tpu else (PORT,))],
                "resources": {"limits": resource, "requests": resource},
                "volumeMounts": mounts,
            }
        ],
        "volumes": volumes,
    }
    if where.slices > 1:  # traffic between slices goes past the pods' own network
        spec |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    if job.service_account:
        spec["serviceAccountName"] = job.service_account
    if job.spot:
        spec["tolerations"] = [
            {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true"}
            | {"effect": "NoSchedule"}
        ]
    return spec


def selectors(job: Job) -> dict[str, str]:
    """Labels of the nodes to take."""
    where = job.topology
    spot = {"cloud.google.com/gke-spot": "true"} if job.spot else {}
    if where.platform == "gpu":
        if where.kind not in GPUS:
            raise config.InputError(
                f"launch gke: {where.name} names no GPU; give --topology "
                f"gpu:NAME:HOSTSxGPUS, of {', '.join(GPUS)}."
            )
        return {"cloud.google.com/gke-accelerator": GPUS[where.kind], **spot}
    return {
        "cloud.google.com/gke-tpu-accelerator": costs.GENERATIONS[where.kind].gke,
        "cloud.google.com/gke-tpu-topology": where.shape_text,
        **spot,
    }


def environment(job: Job, hosts: int) -> list[dict[str, Any]]:
    """Of GPUs, where the others are, which nobody else tells; the job's own are the shell's."""
    if job.topology.platform == "tpu" or hosts == 1:
        return []
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    # <JobSet>-<replicated job>-<job>-<pod>.<JobSet> (jobset.sigs.k8s.io/docs/concepts).
    coordinator = f"{job.name}-workers-0-0.{job.name}:{PORT}"
    return [
        {"name": "BIGMODEL_COORDINATOR", "value": coordinator},
        {"name": "BIGMODEL_PROCESSES", "value": str(hosts)},
        {"name": "BIGMODEL_PROCESS", "valueFrom": {"fieldRef": {"fieldPath": index}}},
    ]


def inner(job: Job, snapshot: Snapshot) -> str:
    """What the container's shell does: it checks and unpacks the code and becomes the command."""
    unpack = UNPACK.format(hash=snapshot.hash, name=snapshot.name, code=CODE)
    become = "exec " + shlex.join(job.command(CODE))
    return unpack + "\n".join([*jobs.shell(job, CODE), become])


def storage(job: Job, snapshot: Snapshot) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Mounts of the container and volumes of the pod: the code, memory to share, buckets, claims.

    Buckets: cloud.google.com/kubernetes-engine/docs/how-to/cloud-storage-fuse-csi-driver-ephemeral.
    """
    mounts: list[dict[str, Any]] = [
        {"name": "snapshot", "mountPath": "/bigmodel-snapshot", "readOnly": True},
        {"name": "shared-memory", "mountPath": "/dev/shm"},  # else 64 MiB, too little for loaders
    ]
    volumes: list[dict[str, Any]] = [
        {"name": "snapshot", "configMap": {"name": config_map_name(job, snapshot)}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
    ]
    for number, pair in enumerate((*job.buckets, *job.volumes)):
        source, path = pair.split("=", 1)
        mounts.append({"name": f"storage-{number}", "mountPath": path})
        bucket = {
            "driver": "gcsfuse.csi.storage.gke.io",
            "volumeAttributes": {"bucketName": source},
        }
        claim = {"persistentVolumeClaim": {"claimName": source}}
        of_bucket = number < len(job.buckets)
        volumes.append({"name": f"storage-{number}"} | ({"csi": bucket} if of_bucket else claim))
    return mounts, volumes


def config_map_name(job: Job, snapshot: Snapshot) -> str:
    return f"{job.name}-{snapshot.hash[:12]}"


def config_map(job: Job, snapshot: Snapshot) -> dict[str, Any]:
    """The code, beside the JobSet: no bucket and no image of its own for it."""
    if len(snapshot.content) > CONFIG_MAP_BYTES:
        raise config.InputError(
            f"launch gke: the snapshot of the code has {len(snapshot.content):,} bytes, and a "
            f"ConfigMap holds {CONFIG_MAP_BYTES:,}; let git ignore what is not needed to run."
        )
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": config_map_name(job, snapshot), "namespace": job.namespace},
        "immutable": True,
        "binaryData": {snapshot.name: base64.b64encode(snapshot.content).decode()},
    }


def start(job: Job) -> Sequence[str]:
    # Applied here, kubectl would note the manifest, code and all, in an annotation of 256 KiB.
    return ("kubectl", "apply", "--server-side", "-f", f"{job.folder}/{MANIFEST}")


def record(job: Job, output: str) -> dict[str, Any]:
    return {"id": job.name, "namespace": job.namespace, "hosts": job.topology.hosts}


def status(kept: Mapping[str, Any]) -> list[Sequence[str]]:
    where, pods = f"--namespace={kept['namespace']}", f"--selector={SELECTOR}={kept['id']}"
    return [
        ("kubectl", "get", "jobset", kept["id"], where),
        ("kubectl", "get", "pods", where, pods, "--output=wide"),
    ]


def logs(kept: Mapping[str, Any], *, lines: int, follow: bool) -> list[Sequence[str]]:
    return [
        ("kubectl", "logs", f"--namespace={kept['namespace']}", "--container=train", "--prefix")
        + (f"--selector={SELECTOR}={kept['id']}", f"--tail={lines}")
        + (f"--max-log-requests={max(5, kept['hosts'])}",)
        + (("--follow",) if follow else ())
    ]


def stop(kept: Mapping[str, Any]) -> list[Sequence[str]]:
    """Pods get SIGTERM, and SIGKILL after the grace."""
    where = f"--namespace={kept['namespace']}"
    code = f"{kept['id']}-{kept['snapshot'][:12]}"
    return [
        ("kubectl", "delete", "configmap", code, where, "--ignore-not-found"),
        ("kubectl", "delete", "jobset", kept["id"], where, "--ignore-not-found"),
    ]
