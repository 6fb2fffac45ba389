"""A job on TPU virtual machines: a queued resource, its code by scp, its processes by ssh.

cloud.google.com/tpu/docs/queued-resources; cloud.google.com/sdk/gcloud/reference/compute/tpus.
Google Cloud gives the machines of all slices their numbers and neighbours as metadata, which jax
reads, so that every machine runs the same line.
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from bigmodel import config, costs
from bigmodel.launch import job as jobs
from bigmodel.launch.job import Job
from bigmodel.launch.snapshot import Snapshot

SCRIPT, WORKER = "start.sh", "worker.sh"
HOME = "/tmp/bigmodel-launch"  # on every machine
TPUS = ("gcloud", "compute", "tpus")
# What this machine runs. Run again it waits on for what was asked for, and starts it again.
START = r"""#!/bin/bash
set -euo pipefail
cd "$(dirname "$0")"
{describe} > /dev/null 2>&1 || {create}
while true; do
  state=$({describe} '--format=value(state.state)')
  echo "{name}: $state"
  case $state in
    ACTIVE) break ;;
    FAILED | SUSPENDED | SUSPENDING | DELETING)
      echo "{name} is $state: delete it with bigmodel launch stop, and launch again." >&2
      exit 1 ;;
  esac
  sleep 30
done
"""
# What every machine runs: the code checked and unpacked, then the processes until they end for
# good. Machines restart at their own will and meet again: all of them end when one does.
WORK = r"""#!/bin/bash
cd {home} || exit 1
if [ "${{1-}}" = stop ]; then
  touch stopped
  kill -TERM "$(cat pid)" 2>/dev/null
  for _ in $(seq {grace}); do kill -0 "$(cat pid)" 2>/dev/null || exit 0; sleep 1; done
  exit 0
fi
exec 9> lock
flock --nonblock 9 || {{ echo "bigmodel: it runs already"; exit 0; }}
rm -f stopped
echo "{hash}  {name}" | sha256sum --check --quiet - || exit 1
mkdir -p {code} && tar -xzf {name} -C {code} || exit 1
cd
{lines}
for failures in $(seq 0 {restarts}); do
  while true; do
    {command} &
    echo $! > {home}/pid
    wait $!
    status=$?
    echo "bigmodel: ended with status $status"
    case $status in 0 | 2 | 130) exit "$status" ;; esac
    if [ -e {home}/stopped ]; then exit "$status"; fi
    sleep 10
    if [ "$status" != 143 ]; then break; fi
  done
done
echo "bigmodel: {restarts} restarts are spent"
exit "$status"
"""


def files(job: Job, snapshot: Snapshot) -> dict[str, str]:
    return {SCRIPT: script(job, snapshot), WORKER: worker(job, snapshot)}


def script(job: Job, snapshot: Snapshot) -> str:
    """The gcloud lines: ask for the machines, wait for them, copy the code, start it on all.

    Raises:
        InputError: devices without virtual machines of the Cloud TPU API, or no zone.
    """
    describe = (*TPUS, "queued-resources", "describe", job.name, *place(job))
    lines = [START.format(name=job.name, describe=shlex.join(describe), create=created(job))]
    carried = (snapshot.name, WORKER)
    begin = f"nohup setsid bash {HOME}/{WORKER} >> {HOME}/log 2>&1 < /dev/null &"
    for node in nodes(job.name, job.topology.slices):
        lines.append(shlex.join(ssh(node, place(job), f"mkdir -p {HOME}")))
        copy = (*TPUS, "tpu-vm", "scp", *carried, f"{node}:{HOME}/", "--worker=all", *place(job))
        lines.append(shlex.join(copy))
    for node in nodes(job.name, job.topology.slices):
        lines.append(shlex.join(ssh(node, place(job), begin)))
    return "\n".join(lines) + "\n"


def created(job: Job) -> str:
    """The line that asks for the machines."""
    jobs.only(job, "tpu-vm", ("tpu",), "For GPUs there are launch slurm and launch gke.")
    jobs.shared(job, "tpu-vm", "")
    where, generation = job.topology, costs.GENERATIONS[job.topology.kind]
    if not generation.vm:
        raise config.InputError(
            f"launch tpu-vm: the Cloud TPU API has no {where.kind}; allowed are "
            f"{', '.join(n for n, row in costs.GENERATIONS.items() if row.vm)}. "
            "There is launch gke for it."
        )
    if not job.zone:
        raise config.InputError("launch tpu-vm: needs --zone NAME, as in --zone=us-east5-a.")
    if where.kind == "v4":  # of no later one gcloud takes the shape (its SDK 528)
        shape = [f"--type={generation.vm}", f"--topology={where.shape_text}"]
    else:
        shape = [f"--accelerator-type={generation.vm}-{counted(job)}"]
    several = (f"--node-count={where.slices}", f"--node-prefix={job.name}")
    named = several if where.slices > 1 else (f"--node-id={job.name}",)
    paid = [flag for flag, on in (("--spot", job.spot), ("--reserved", job.reserved)) if on]
    account = [f"--service-account={job.service_account}"] if job.service_account else []
    runtime = f"--runtime-version={job.runtime or generation.runtime}"
    words = (job.name, *place(job), *shape, runtime, *named, *paid, *account)
    return shlex.join((*TPUS, "queued-resources", "create", *words))


def counted(job: Job) -> int:
    """The number in an accelerator type, by which the API chooses a slice's shape.

    Chips of v5e and v6e; of v5p TensorCores, two a chip, in the shape nearest to a cube
    (cloud.google.com/tpu/docs/v5p).
    """
    where = job.topology
    shape = sorted(where.shape)
    if len(shape) == 2:
        return where.chips // where.slices
    if shape[2] > 2 * shape[0]:
        raise config.InputError(
            f"launch tpu-vm: of as many chips as {where.name} the Cloud TPU API gives another "
            "shape, nearer to a cube; launch gke gives the shape that is asked for."
        )
    return 2 * where.chips // where.slices


def worker(job: Job, snapshot: Snapshot) -> str:
    code = f"{HOME}/code-{snapshot.hash[:12]}"
    return WORK.format(
        home=HOME,
        grace=job.grace_seconds,
        hash=snapshot.hash,
        name=snapshot.name,
        code=code,
        lines="\n".join(jobs.shell(job, code)),
        command=shlex.join(job.command(code)),
        restarts=job.restarts,
    )


def place(job: Job) -> tuple[str, ...]:
    return (f"--zone={job.zone}", *([f"--project={job.project}"] if job.project else []))


def nodes(name: str, slices: int) -> list[str]:
    """Names of the slices."""
    return [name] if slices == 1 else [f"{name}-{number}" for number in range(slices)]


def ssh(node: str, where: Sequence[str], command: str) -> tuple[str, ...]:
    return (*TPUS, "tpu-vm", "ssh", node, "--worker=all", *where, f"--command={command}")


def start(job: Job) -> Sequence[str]:
    return ("bash", f"{job.folder}/{SCRIPT}")


def record(job: Job, output: str) -> dict[str, Any]:
    return {"id": job.name, "place": list(place(job)), "slices": job.topology.slices}


def status(kept: Mapping[str, Any]) -> list[Sequence[str]]:
    return [(*TPUS, "queued-resources", "describe", kept["id"], *kept["place"])]


def logs(kept: Mapping[str, Any], *, lines: int, follow: bool) -> list[Sequence[str]]:
    command = f"tail -n {lines}{' -F' * follow} {HOME}/log"
    return [ssh(node, kept["place"], command) for node in nodes(kept["id"], kept["slices"])]


def stop(kept: Mapping[str, Any]) -> list[Sequence[str]]:
    """Processes get SIGTERM and their grace, then the machines are given back."""
    saved = [
        ssh(node, kept["place"], f"bash {HOME}/{WORKER} stop")
        for node in nodes(kept["id"], kept["slices"])
    ]
    delete = (*TPUS, "queued-resources", "delete", kept["id"], *kept["place"], "--force", "--quiet")
    return [*saved, delete]
