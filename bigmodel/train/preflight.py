"""What is looked at on every host before anything is compiled; the one at fault is named."""

import json
import os
import secrets
import shutil
import socket
import statistics
import time
from typing import Any

import jax
from etils import epath

from bigmodel import config
from bigmodel.checkpoint import agreement
from bigmodel.train import selftest

CLOCK_SECONDS = 30.0  # that a host's clock may be off
DISK_BYTES = 2**30  # that should be free where the workdir is, if that is local
MEMORY_BYTES = 2**29
SECONDS = 50.0


def check(folder: epath.Path) -> list[str]:
    """Looks at all hosts of the job, each of which calls it.

    Args:
        folder: the workdir; a small file of each process is written into it, and removed.

    Returns:
        What is no reason to stop, a line each.

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
    own = about() | {"fault": fault, "probe": "" if fault else probe.name}
    try:
        agreement.wait("the preflight to begin", seconds=SECONDS)
        own["clock"] = time.time()  # of all processes at about the same moment
        said = agreement.gathered("the preflight's facts", json.dumps(own), seconds=SECONDS)
        hosts = [json.loads(text) for text in said]
        unseen = "" if any(host["fault"] for host in hosts) else not_seen(folder, hosts)
        faults = agreement.gathered("the preflight's verdict", unseen, seconds=SECONDS)
    finally:
        if not fault:
            probe.unlink(missing_ok=True)
    wrong = [*refusals(hosts), *filter(None, faults)]
    if wrong:
        raise config.InputError(wrong[0])
    return warnings(hosts, is_local="://" not in str(folder), folder=folder)


def about() -> dict[str, Any]:
    """What this host has."""
    devices = jax.local_devices()
    return {
        "host": socket.gethostname(),
        "devices": len(devices),
        "kind": devices[0].device_kind,
        "memory": memory(),
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


def warnings(hosts: list[dict[str, Any]], *, is_local: bool, folder: epath.Path) -> list[str]:
    """What may become a fault."""
    found = []
    little = [n for n, host in enumerate(hosts) if 0 < host["memory"] < MEMORY_BYTES]
    if little:
        found.append(f"little memory is left on {named(little, hosts)}")
    if is_local and (free := shutil.disk_usage(folder).free) < DISK_BYTES:
        found.append(f"{free / 2**20:,.0f} MiB are free on the disk of {folder}")
    return found


def named(numbers: list[int], hosts: list[dict[str, Any]]) -> str:
    shown = ", ".join(f"process {number} ({hosts[number]['host']})" for number in numbers[:8])
    return shown + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")


def memory() -> int:
    """Bytes of memory that could be had here, or 0 where the system does not say."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
