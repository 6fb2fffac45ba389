"""Jobs on many hosts: one description in, what sbatch, kubectl and gcloud take out as text.

And the supervisor of a job of processes on this machine.
"""

from bigmodel.launch import gke, slurm, tpu_vm
from bigmodel.launch.job import Job
from bigmodel.launch.snapshot import Snapshot, pack, unpack

# What a cluster's file gives: `files(job, snapshot)`, the texts to write by name, `start(job)`, the
# command that submits them from their folder, `record(job, output)`, the facts that `status`,
# `logs` and `stop` take, each of which gives command lines.
CLUSTERS = {"slurm": slurm, "gke": gke, "tpu-vm": tpu_vm}

__all__ = ["CLUSTERS", "Job", "Snapshot", "gke", "pack", "slurm", "tpu_vm", "unpack"]
