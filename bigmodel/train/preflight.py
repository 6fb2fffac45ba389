"""What is looked at on every host before anything is compiled; the one at fault is named."""

import collections
import errno
import json
import math
import pathlib
import re
import secrets
import shutil
import socket
import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from bigmodel import trees
from bigmodel.checkpoint import agreement
from bigmodel.data import files
from bigmodel.report import units
from bigmodel.train import selftest

CLOCK_SECONDS = 30.0  # that clocks may be apart
SECONDS = 50.0
LASTING = (PermissionError, NotADirectoryError, FileExistsError, FileNotFoundError)

ELSEWHERE = "://"  # a place without a disk of this host

Facts = dict[str, Any]


def check(folder: epath.Path, sources: Sequence[str] = ()) -> None:
    """Looks at all hosts of the job, each of which calls it.

    Args:
        folder: the workdir; a small file of each process is written into it, and removed.
        sources: of the data, as in a config.

    Raises:
        AgreedError: what is wrong, and on which host.
        OthersError: some storage failed for once: to start again may help.
        MissingError: a process did not come.
    """
    probe = folder / f".preflight-{jax.process_index()}-{secrets.token_hex(4)}"
    own = about() | {"probe": "", "fault": "", "trouble": ""}
    try:
        try:
            what = f"cannot write into the workdir {folder}"
            folder.mkdir(parents=True, exist_ok=True)
            probe.write_text(str(jax.process_index()))
            own["probe"], what = probe.name, "cannot look for the data"
            if absent := next(filter(None, map(files.absent, sources)), ""):
                own["fault"] = f"does not see the data: {absent} is not there"
        except Exception as error:  # of a bucket, for one
            own["fault" if lasts(error) else "trouble"] = f"{what}: {error}"
        agreement.wait("the preflight to begin", seconds=SECONDS)
        own["clock"] = time.time()  # of all processes at about the same moment
        hosts = gathered("the preflight's facts", own)
        wrong = any(host["fault"] or host["trouble"] for host in hosts)
        unseen = "" if wrong else not_seen(folder, hosts)
        faults = agreement.gathered("the preflight's verdict", unseen, seconds=SECONDS)
    finally:
        if own["probe"]:
            probe.unlink(missing_ok=True)
    if found := [*refusals(hosts), *filter(None, faults)]:
        raise agreement.AgreedError(found[0])
    for number, host in enumerate(hosts):
        if host["trouble"]:
            raise agreement.OthersError(f"{agreement.named([number])} {host['trouble']}")


def gathered(what: str, own: Facts) -> list[Facts]:
    """The facts of all processes, by process."""
    said = agreement.gathered(what, json.dumps(own), seconds=SECONDS)
    return [json.loads(text) for text in said]


def lasts(error: Exception) -> bool:
    """Whether a start anew would meet the same error."""
    return isinstance(error, LASTING) or getattr(error, "errno", 0) == errno.EROFS


def about() -> Facts:
    """What this host has."""
    devices = jax.local_devices()
    return {
        "devices": len(devices),
        "kind": devices[0].device_kind,
        "faulty": "; ".join(selftest.faulty_devices()),
    }


def not_seen(folder: epath.Path, hosts: list[Facts]) -> str:
    """Whose file this process does not see; a shared folder may take a moment."""
    end = time.monotonic() + 10.0
    absent: list[int] = []
    while True:
        seen = {path.name for path in folder.iterdir()}
        absent = [number for number, host in enumerate(hosts) if host["probe"] not in seen]
        if not absent or time.monotonic() > end:
            break
        time.sleep(0.2)
    if not absent:
        return ""
    return (
        f"the workdir {folder} must be one folder for all hosts: what {agreement.named(absent)} "
        f"wrote is not seen on {agreement.named([jax.process_index()])}. Choose a --workdir on "
        f"storage that all of them share."
    )


def refusals(hosts: list[Facts]) -> list[str]:
    """What must not be."""
    found = [
        f"{agreement.named([number])} {host['fault']}. See to its rights and its mounts."
        for number, host in enumerate(hosts)
        if host["fault"]
    ]
    found += [
        f"{host['faulty']}: a fixed chain of products goes wrong there. Leave that host out."
        for host in hosts
        if host["faulty"]
    ]
    for field, what in (("kind", "kind of device"), ("devices", "number of devices")):
        usual = statistics.mode([host[field] for host in hosts])
        odd = [number for number, host in enumerate(hosts) if host[field] != usual]
        if odd:
            found.append(
                f"all hosts must have one {what}: {usual} on most, {hosts[odd[0]][field]} on "
                f"{agreement.named(odd)}. Restart that host, or leave it out."
            )
    clocks = [host["clock"] for host in hosts]
    middle = clocks.index(statistics.median_low(clocks))
    off = max(range(len(clocks)), key=lambda number: abs(clocks[number] - clocks[middle]))
    if max(clocks) - min(clocks) > CLOCK_SECONDS:
        found.append(
            f"the hosts' clocks must be within {CLOCK_SECONDS:.0f} s of each other: that of "
            f"{agreement.named([off])} is {clocks[off] - clocks[middle]:+.0f} s off that of "
            f"{agreement.named([middle])}. Set them by NTP."
        )
    return found


def check_room(
    state: Any, folder: epath.Path | None, local: str = "", *, full: bool = False
) -> None:
    """Whether disks and memory have room for the checkpoints of a state; each process calls it.

    Args:
        state: shapes with shardings.
        folder: the workdir; None: nothing more is written there.
        local: where each host's own checkpoints are to lie, if anywhere.
        full: all of them lie there already on this host: the oldest goes for the next.

    Raises:
        AgreedError: there is too little of one of them; where, and how much.
    """
    whole, part = trees.nbytes(state), held(state)
    copies = 1 + (jax.default_backend() == "cpu")  # there the state itself lies in memory as well
    own: Facts = {"host": socket.gethostname(), "part": part, "memory": memory()}
    own["disk"] = free(folder or ELSEWHERE)
    own["local"] = free(local if local and not full else ELSEWHERE)
    hosts = gathered("a look at disks and memory", own)
    if whole > hosts[0]["disk"]:  # all see the same one
        raise agreement.AgreedError(
            f"--workdir = {folder}: a checkpoint takes {units.size(whole)}, and "
            f"{units.size(hosts[0]['disk'])} are free on its disk. Free some, or choose another."
        )
    needed: collections.Counter[str] = collections.Counter()
    for host in hosts:
        needed[host["host"]] += host["part"]
    for number, host in enumerate(hosts):
        who, parts = agreement.named([number]), needed[host["host"]]
        if parts > host["local"]:
            raise agreement.AgreedError(
                f"checkpoint.local = {local}: the host of {who} has {units.size(host['local'])} "
                f"free there, and its part of the state takes {units.size(parts)}. Free some, or "
                f"choose another folder."
            )
        if copies * parts > host["memory"]:
            raise agreement.AgreedError(
                f"the host of {who} has {units.size(host['memory'])} of memory free, and its part "
                f"of the state, which a save copies there, takes {units.size(copies * parts)}. "
                f"Take more hosts, or such with more memory."
            )


def held(state: Any) -> int:
    """Bytes of a state that this process's devices hold, each part once."""
    found = 0
    for leaf in jax.tree.leaves(state):
        parts = set(map(str, leaf.sharding.addressable_devices_indices_map(leaf.shape).values()))
        size = math.prod(leaf.sharding.shard_shape(leaf.shape))
        found += len(parts) * size * leaf.dtype.itemsize
    return found


def free(folder: epath.PathLike) -> float:
    """Bytes left on a folder's disk; infinite where nobody says."""
    if "://" in str(folder):
        return math.inf
    path = pathlib.Path(folder).expanduser().absolute()
    usage = shutil.disk_usage(next(place for place in (path, *path.parents) if place.exists()))
    return usage.free if usage.total else math.inf


def memory() -> float:
    """Bytes of memory that programs could still have; infinite where the system does not say."""
    try:
        said = pathlib.Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        return math.inf
    found = re.search(r"^MemAvailable:\s+(\d+) kB", said, re.MULTILINE)
    return 1024.0 * int(found[1]) if found else math.inf
