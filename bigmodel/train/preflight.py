"""What is looked at on every host before anything is compiled; the one at fault is named."""

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

from bigmodel import config
from bigmodel.checkpoint import agreement
from bigmodel.data import files
from bigmodel.report import units
from bigmodel.train import selftest

CLOCK_SECONDS = 30.0  # that a host's clock may be off
SECONDS = 50.0


def check(folder: epath.Path, sources: Sequence[str] = ()) -> None:
    """Looks at all hosts of the job, each of which calls it.

    Args:
        folder: the workdir; a small file of each process is written into it, and removed.
        sources: of the data, as in a config.

    Raises:
        InputError: the same on all: what is wrong, and on which host.
        MissingError: a process did not come.
    """
    probe = folder / f".preflight-{jax.process_index()}-{secrets.token_hex(4)}"
    fault = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text(str(jax.process_index()))
    except OSError as error:
        fault = f"cannot write into the workdir {folder}: {error.strerror or error}"
    written = not fault
    fault = fault or unreachable(sources)
    own = about() | {"fault": fault, "probe": probe.name if written else ""}
    try:
        agreement.wait("the preflight to begin", seconds=SECONDS)
        own["clock"] = time.time()  # of all processes at about the same moment
        said = agreement.gathered("the preflight's facts", json.dumps(own), seconds=SECONDS)
        hosts = [json.loads(text) for text in said]
        unseen = "" if any(host["fault"] for host in hosts) else not_seen(folder, hosts)
        faults = agreement.gathered("the preflight's verdict", unseen, seconds=SECONDS)
    finally:
        if written:
            probe.unlink(missing_ok=True)
    wrong = [*refusals(hosts), *filter(None, faults)]
    if wrong:
        raise config.InputError(wrong[0])


def unreachable(sources: Sequence[str]) -> str:
    """What data this host cannot reach, if any."""
    try:
        absent = next(filter(None, map(files.absent, sources)), "")
    except Exception as error:  # of a bucket, for one
        return f"cannot look for the data: {type(error).__name__}: {error}"
    return absent and f"does not see the data: {absent} is not there"


def about() -> dict[str, Any]:
    """What this host has."""
    devices = jax.local_devices()
    return {
        "host": socket.gethostname(),
        "devices": len(devices),
        "kind": devices[0].device_kind,
        "faulty": "; ".join(selftest.faulty_devices()),
    }


def not_seen(folder: epath.Path, hosts: list[dict[str, Any]]) -> str:
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
        f"the workdir {folder} must be one folder for all hosts: what {named(absent, hosts)} wrote "
        f"is not seen on {named([jax.process_index()], hosts)}. Choose a --workdir on storage that "
        f"all of them share."
    )


def refusals(hosts: list[dict[str, Any]]) -> list[str]:
    """What must not be."""
    found = [
        f"{named([number], hosts)} {host['fault']}. See to its rights and its mounts."
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
                f"{named(odd, hosts)}. Restart that host, or leave it out."
            )
    now = statistics.median([host["clock"] for host in hosts])
    late = [n for n, host in enumerate(hosts) if abs(host["clock"] - now) > CLOCK_SECONDS]
    if late:
        found.append(
            f"the hosts' clocks must be within {CLOCK_SECONDS:.0f} s of each other: that of "
            f"{named(late, hosts)} is {hosts[late[0]]['clock'] - now:+.0f} s off. Set it by NTP."
        )
    return found


def named(numbers: list[int], hosts: list[dict[str, Any]]) -> str:
    shown = ", ".join(f"process {number} ({hosts[number]['host']})" for number in numbers[:8])
    return shown + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")


def check_room(state: Any, folder: epath.Path, local: str = "") -> None:
    """Whether the disks and the memory of this host have room for the checkpoints of a state.

    Args:
        state: shapes with shardings.
        folder: the workdir.
        local: where this host's own checkpoints lie, if anywhere.

    Raises:
        InputError: there is too little of one of them on this host.
    """
    whole, own = sizes(state)
    places = [("--workdir", str(folder), whole), ("checkpoint.local", local, own)]
    for said, where, needed in places:
        if not where or "://" in where:
            continue
        left = shutil.disk_usage(existing(pathlib.Path(where))).free
        if left < needed:
            raise config.InputError(
                f"{said} = {where}: a checkpoint takes {units.size(needed)}, and "
                f"{units.size(left)} are free on its disk, as {here()} sees it. Free some, or "
                f"choose another folder."
            )
    copies = 1 + (jax.default_backend() == "cpu")  # there the state itself lies in it as well
    if copies * own > (free := memory()):
        raise config.InputError(
            f"{here()} has {units.size(free)} of memory free, and its part of the state, which a "
            f"save copies there, takes {units.size(copies * own)}. Take more hosts, or such with "
            f"more memory."
        )


def sizes(state: Any) -> tuple[int, int]:
    """Bytes of a state, of the whole and of what this process's devices hold, each part once."""
    whole = own = 0
    for leaf in jax.tree.leaves(state):
        held = leaf.sharding.addressable_devices_indices_map(leaf.shape).values()
        part = math.prod(leaf.sharding.shard_shape(leaf.shape))
        whole += leaf.size * leaf.dtype.itemsize
        own += len({str(index) for index in held}) * part * leaf.dtype.itemsize
    return whole, own


def existing(path: pathlib.Path) -> pathlib.Path:
    """The path, or the nearest folder above it that is there."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def here() -> str:
    return f"process {jax.process_index()} ({socket.gethostname()})"


def memory() -> float:
    """Bytes of memory that programs could still have; infinite where the system does not say."""
    try:
        said = pathlib.Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        return math.inf
    found = re.search(r"^MemAvailable:\s+(\d+) kB", said, re.MULTILINE)
    return 1024.0 * int(found[1]) if found else math.inf
