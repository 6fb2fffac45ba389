"""One description of a job, whatever cluster it runs on."""

import dataclasses
import re
import shlex
from collections.abc import Sequence

from bigmodel import config
from bigmodel.costs import Topology

# Kubernetes appends "-workers-<slice>-<host>" and takes 63 characters in all (RFC 1123).
NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SHARED_SECONDS = 60  # of the grace, at least: a save of a large model takes as long


@dataclasses.dataclass(frozen=True)
class Job:
    """What is to run, on what, and how it is restarted.

    Attributes:
        name: of the job, as the cluster shows it.
        workdir: where the run goes; every host sees it under this name.
        config: path of the config file within the snapshot, with ":SIZE" where there is one.
        overrides: as "model.width=128".
        topology: devices, and the hosts that they stand in.
        folder: where what is submitted lies on this machine.
        python: the interpreter of the hosts.
        setup: a shell line that every host runs first, such as "module load cuda"; "" for none.
        environment: "NAME=VALUE" of every process.
        restarts: starts after a failure, at most; what was preempted or refused does not count.
        grace_seconds: from SIGTERM to SIGKILL, for the last save.
        partition, account, time_limit: of Slurm; "" for the cluster's own.
        options: further options of sbatch, such as "--qos=high".
        image: of the container, with what bigmodel needs; the code comes as a snapshot.
        namespace: of Kubernetes.
        service_account: of Kubernetes, or of the virtual machines.
        buckets: "NAME=/path", Google Cloud Storage buckets and where they are mounted.
        volumes: "CLAIM=/path", persistent volume claims and where they are mounted.
        zone, project: of Google Cloud; "" for gcloud's own.
        runtime: software version of TPU virtual machines; "" for the usual one.
        spot, reserved: how the machines are paid for.
    """

    name: str
    workdir: str
    config: str
    topology: Topology
    folder: str
    overrides: tuple[str, ...] = ()
    python: str = "python3"
    setup: str = ""
    environment: tuple[str, ...] = ()
    restarts: int = 3
    grace_seconds: int = 120
    partition: str = ""
    account: str = ""
    time_limit: str = ""
    options: tuple[str, ...] = ()
    image: str = ""
    namespace: str = "default"
    service_account: str = ""
    buckets: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    zone: str = ""
    project: str = ""
    runtime: str = ""
    spot: bool = False
    reserved: bool = False

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise config.InputError(
                f"--name={self.name}: a job is named by at most 40 small letters, digits and "
                "dashes, a letter first, as in --name=llama-8b."
            )
        if self.grace_seconds < SHARED_SECONDS:
            raise config.InputError(
                f"--grace={self.grace_seconds}: the last save needs time; {SHARED_SECONDS} seconds "
                "or more are allowed."
            )
        for pair in self.environment:
            if not VARIABLE.fullmatch(pair.partition("=")[0]) or "=" not in pair:
                raise config.InputError(f"--env={pair}: is not NAME=VALUE.")
        for flag, pairs in (("bucket", self.buckets), ("volume", self.volumes)):
            for pair in pairs:
                if not re.fullmatch(r"[a-z0-9][-._a-z0-9]*=/.+", pair):
                    raise config.InputError(
                        f"--{flag}={pair}: is not NAME=/path, as in --{flag}=mine=/mnt/mine."
                    )
        if self.spot and self.reserved:
            raise config.InputError("--spot and --reserved: machines are one or the other.")

    def command(self, code: str) -> tuple[str, ...]:
        """What every process runs, of the code in a folder, in whatever folder it starts."""
        overrides = (f"--config.{override}" for override in self.overrides)
        where = ("--config", f"{code}/{self.config}", "--workdir", self.workdir)
        # -P: else the folder it starts in, a work tree say, would come before the snapshot.
        return (self.python, "-P", "-m", "bigmodel", "train", *where, *overrides)

    @property
    def variables(self) -> dict[str, str]:
        """The environment by name, with what simulated devices need."""
        found = dict(pair.split("=", 1) for pair in self.environment)
        if self.topology.platform == "cpu":
            count = self.topology.chips_per_host
            simulated = f"--xla_force_host_platform_device_count={count}"
            found = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": simulated, **found}
        return found


def shell(job: Job, code: str) -> list[str]:
    """Lines of a shell that go before the command: the code's place, the environment, the setup."""
    variables = dict(job.variables)
    given = variables.pop("PYTHONPATH", "")
    variables = {"PYTHONPATH": f"{code}:{given}" if given else code, **variables}
    exports = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    return [*exports, *(["{", job.setup, "} || exit 1"] if job.setup else [])]


def only(job: Job, kind: str, platforms: Sequence[str], cure: str) -> None:
    """Refuses devices that a cluster does not have."""
    if job.topology.platform not in platforms:
        raise config.InputError(
            f"launch {kind}: {job.topology.name} are {job.topology.platform} devices; allowed are "
            f"{' and '.join(platforms)}. {cure}"
        )


def shared(job: Job, kind: str, cure: str) -> None:
    """Refuses a workdir that the hosts would not share: a local folder of one that goes away."""
    mounts = [pair.split("=", 1)[1] for pair in (*job.buckets, *job.volumes)]
    inside = [path for path in mounts if f"{job.workdir}/".startswith(f"{path.rstrip('/')}/")]
    if "://" not in job.workdir and not inside:
        raise config.InputError(
            f"launch {kind}: --workdir={job.workdir} is a folder that the hosts do not share; "
            f"allowed is a bucket, as gs://NAME/run{cure}."
        )
