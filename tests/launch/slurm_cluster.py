"""A Slurm cluster of two nodes on this machine, for as long as a test runs.

Debian: apt-get install slurmctld slurmd slurm-client. Nodes are named by loopback addresses: jax
takes the first node's name for its coordinator's address, and waits for ever where it does not
resolve. No munge and no file outside its folder; all runs as the one who starts it (root).
"""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import time

NEEDED = ("slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "scancel")
INSTALL = "apt-get install -y --no-install-recommends slurmctld slurmd slurm-client"
NODES = ("127.0.0.2", "127.0.0.3")
CONF = """
ClusterName=lab
SlurmctldHost=localhost
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
SlurmctldPort=26817
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=30
SchedulerParameters=sched_interval=5,bf_interval=5
NodeName=127.0.0.[2-3] NodeAddr=127.0.0.[2-3] NodeHostname=localhost Port=[27001-27002] CPUs=8
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing():
    """What keeps a cluster from running here, or ""."""
    lacks = [name for name in NEEDED if shutil.which(name) is None]
    if lacks:
        return f"Slurm is not installed ({', '.join(lacks)}): {INSTALL}"
    return "" if os.geteuid() == 0 else "Slurm's daemons run as root here"


@contextlib.contextmanager
def cluster(folder: pathlib.Path):
    """Starts the daemons, and ends them and their jobs; sets SLURM_CONF meanwhile."""
    for name in ("state", "log", *(f"spool/{node}" for node in NODES)):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    (folder / "slurm.conf").write_text(CONF.format(folder=folder))
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    try:
        subprocess.run(["slurmctld"], check=True)
        for node in NODES:
            subprocess.run(["slurmd", "-N", node], check=True)
        wait(lambda: len(said("sinfo", "-h", "-N", "-t", "idle").split()) // 4 == 2, 60, "nodes")
        yield
    finally:
        for job in said("squeue", "-h", "-o", "%i").split():
            subprocess.run(["scancel", "--quiet", job])
        time.sleep(2)
        for path in folder.glob("*.pid"):
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(path.read_text()), signal.SIGTERM)
        os.environ.pop("SLURM_CONF") if before is None else os.environ.update(SLURM_CONF=before)


def said(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout


def facts(job):
    """What scontrol shows of a job, by name."""
    words = said("scontrol", "show", "job", "--oneliner", str(job)).split()
    return dict(word.split("=", 1) for word in words if "=" in word)


def wait(done, seconds, what):
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, f"{what}: not within {seconds} s"
        time.sleep(0.5)
