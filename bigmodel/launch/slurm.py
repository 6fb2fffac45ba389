"""A job under Slurm: the script that sbatch takes, and the commands that watch it.

One process a GPU, as jax's own detection wants it (docs.jax.dev, "Multi-process"; its Slurm
cluster gives the process with SLURM_LOCALID i the GPU i of the host), or one a host of simulated
devices. Options: slurm.schedmd.com/sbatch.html.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from bigmodel import config
from bigmodel.launch import job as jobs
from bigmodel.launch.job import Job
from bigmodel.launch.snapshot import Snapshot

Lines = list[Sequence[str]]

SCRIPT = "job.sbatch"
# Which statuses mean what is said by the command itself: 2 is a refused input, which no restart
# mends; 143 is SIGTERM, saved. Slurm tells the tasks alone of the time limit, and with scancel and
# scontrol requeue the batch shell too: then what becomes of the job is decided, and not here.
# Its own --requeue is for hosts that fail and for those commands, not for a task that fails.
RUN = r"""
decided=0
trap 'decided=1' TERM
srun --kill-on-bad-exit=0 --wait={grace} {command} &
tasks=$!
while kill -0 "$tasks" 2>/dev/null; do wait "$tasks"; done  # a trap ends a wait, not the tasks
wait "$tasks"
status=$?
failures={folder}/failures-$SLURM_JOB_ID
if [ "$status" != 0 ] && [ "$status" != 143 ]; then echo "$status" >> "$failures"; fi
failed=$(cat "$failures" 2>/dev/null | wc -l)
again=0
case $status in
  0 | 2 | 130) ;;
  143) again=1 ;;
  *) if [ "$failed" -le {restarts} ]; then again=1; fi ;;
esac
echo "bigmodel: the tasks ended with status $status" \
  "(start $((${{SLURM_RESTART_COUNT:-0}} + 1)), failures $failed of {restarts} allowed)"
if [ "$again" = 1 ] && [ "$decided" = 0 ]; then
  echo "bigmodel: requeued; the run goes on from its last checkpoint"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"  # Slurm takes the script's status for the job's
"""


def files(job: Job, snapshot: Snapshot) -> dict[str, str]:
    return {SCRIPT: script(job, snapshot)}


def script(job: Job, snapshot: Snapshot) -> str:
    """The batch script, whole.

    Raises:
        InputError: devices that Slurm's script is not for, or an option that is none.
    """
    jobs.only(job, "slurm", ("gpu", "cpu"), "For TPUs there are launch gke and launch tpu-vm.")
    for option in job.options:
        if not re.fullmatch(r"--[a-z][-a-z]*(=.+)?", option):
            raise config.InputError(f"--sbatch={option}: is no option such as --qos=high.")
    minutes = limit_minutes(job.time_limit)
    if minutes is not None and minutes * 60 < 2 * job.grace_seconds:
        raise config.InputError(
            f"--time={job.time_limit}: of it {job.grace_seconds} s are grace for the last save; "
            f"twice that is the least. Give more time, or less --grace."
        )
    where = job.topology
    gpus = where.platform == "gpu"
    options = {
        "job-name": job.name,
        "nodes": where.hosts,
        "ntasks-per-node": where.chips_per_host if gpus else 1,
        # Not --gpus-per-task: each would see one GPU, and jax would ask for the i-th.
        "gpus-per-node": where.chips_per_host if gpus else "",
        "partition": job.partition,
        "account": job.account,
        "time": job.time_limit,
        "signal": f"TERM@{job.grace_seconds}",  # to the tasks; B: would tell the shell alone
        "output": f"{job.folder}/slurm-%j.log",
    }
    directives = [
        f"--{name}={shlex.quote(str(value))}" for name, value in options.items() if value != ""
    ]
    directives += ["--requeue", "--open-mode=append", *job.options]
    code = f"{job.folder}/code-{snapshot.hash[:12]}"
    run = RUN.format(
        grace=job.grace_seconds,
        command=shlex.join(job.command(code)),
        folder=shlex.quote(job.folder),
        restarts=job.restarts,
    )
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {option}" for option in directives),
        f"# bigmodel {snapshot.hash}",
        *jobs.shell(job, code),
    ]
    return "\n".join(lines) + "\n" + run


def limit_minutes(text: str) -> float | None:
    """A time limit as sbatch takes it: "60", "2:30:00", "1-12", "1-12:00:00"; None for none."""
    if not text:
        return None
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if found is None:
        raise config.InputError(
            f"--time={text}: is no time of Slurm; allowed are minutes, hours:minutes:seconds and "
            "days-hours:minutes:seconds, as in --time=12:00:00."
        )
    days, first, second, third = (int(part or 0) for part in found.groups())
    if found[1]:
        return days * 1440 + first * 60 + second + third / 60
    return first * 60 + second + third / 60 if found[4] else first + second / 60


def start(job: Job) -> Sequence[str]:
    return ("sbatch", "--parsable", f"{job.folder}/{SCRIPT}")


def record(job: Job, output: str) -> dict[str, Any]:
    """What is kept of a job, with what sbatch said: "ID" or "ID;cluster"."""
    return {"id": output.strip().split(";")[0]}


def status(kept: Mapping[str, Any]) -> Lines:
    shown = "%.12i %.20j %.12T %.12M %.6D %R"
    return [("squeue", f"--jobs={kept['id']}", "--states=all", f"--format={shown}")]


def logs(kept: Mapping[str, Any], *, lines: int, follow: bool) -> Lines:
    path = f"{kept['folder']}/slurm-{kept['id']}.log"
    return [("tail", "-n", str(lines), *(["-F"] if follow else []), path)]


def stop(kept: Mapping[str, Any]) -> Lines:
    """Tasks and batch shell get SIGTERM, and SIGKILL after the cluster's KillWait."""
    return [("scancel", "--quiet", kept["id"])]
