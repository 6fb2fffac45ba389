"""What `bigmodel launch` does: it plans the job, writes what it submits, and watches it.

A launch is kept under WORKDIR/launch: what was submitted, the snapshot of the code, and
launch.json, which says where the job runs; `status`, `logs` and `stop` read it.
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from bigmodel import config, costs, launch
from bigmodel.launch import snapshot as snapshots

RECORD = "launch.json"
GIB = 2**30


def start(kind: str, loaded: config.Loaded, flags: Mapping[str, Any]) -> int:
    """Submits a job, or prints what it would submit.

    Args:
        kind: a cluster of `launch.CLUSTERS`.
        loaded: from `bigmodel.load_config`.
        flags: values of the subcommand's flags, by name.

    Returns:
        The exit status: that of the cluster's own command.

    Raises:
        InputError: a job that would not fit, or cannot be written or submitted.
    """
    cluster = launch.CLUSTERS[kind]
    where = topology(kind, flags)
    snapshot = launch.pack(loaded.path)
    job = describe(kind, loaded, where, snapshot, flags)
    texts = cluster.files(job, snapshot)
    check_plan(loaded, where, flags["plan"], unplanned=flags["unplanned"])
    command = cluster.start(job)
    if flags["dry_run"]:
        shown = [f"# {job.folder}/{name}\n{text}" for name, text in texts.items()]
        print("\n".join([*shown, f"# {shlex.join(command)}"]))
        return 0
    tool(kind, command)
    folder = pathlib.Path(job.folder)
    refuse_second(kind, folder, flags["workdir"])
    write(folder, snapshot, texts)
    facts: dict[str, Any] = {"kind": kind, "name": job.name, "folder": job.folder}
    facts |= {"workdir": job.workdir, "topology": where.name, "slices": where.slices}
    facts |= {"snapshot": snapshot.hash, "state": "starting"}
    keep(folder, facts | cluster.record(job, ""))  # what fails half-way can be stopped too
    streams = kind == "tpu-vm"  # it tells for minutes or hours what it waits for
    done = subprocess.run(command, text=True, stdout=None if streams else subprocess.PIPE)
    output = done.stdout or ""
    if done.returncode:
        print(output, end="", file=sys.stderr)
        print(f"bigmodel: {command[0]} ended with status {done.returncode}", file=sys.stderr)
        return 1
    found = facts | cluster.record(job, output) | {"state": "submitted"}
    keep(folder, found)
    print(f"{kind} job {found['id']}, code {snapshot.hash[:12]}; {folder / RECORD}")
    print(f"bigmodel launch status|logs|stop --workdir {shlex.quote(flags['workdir'])}")
    return 0


def watch(verb: str, flags: Mapping[str, Any]) -> int:
    """Runs the cluster's own commands for the job that a workdir's record names."""
    kept = recorded(flags)
    if not kept["id"]:
        raise config.InputError(f"{kept['folder']}: the launch there was never submitted.")
    cluster = launch.CLUSTERS[kept["kind"]]
    options = {"lines": flags["lines"], "follow": flags["follow"]} if verb == "logs" else {}
    ended = []
    for command in getattr(cluster, verb)(kept, **options):
        tool(kept["kind"], command)
        ended.append(subprocess.run(command).returncode)
    if verb == "stop":  # the last one ends it; the others prepare it, and may find nothing to do
        ended = ended[-1:]
        if not any(ended):
            keep(pathlib.Path(kept["folder"]), kept | {"state": "stopped"})
    return 1 if any(ended) else 0


def topology(kind: str, flags: Mapping[str, Any]) -> costs.Topology:
    """Of the name that plan takes, or of hosts with any GPUs."""
    from bigmodel.plan import topology as topologies

    hosts, devices = flags.get("hosts"), flags.get("devices_per_host")
    if flags["topology"]:
        if hosts or devices:
            raise config.InputError(
                "--topology names the hosts: it stands without --hosts and --devices_per_host."
            )
        return topologies.parse(flags["topology"], flags["slices"])
    if hosts and devices:
        return costs.Topology(f"{hosts}x{devices} GPUs", "gpu", "", (hosts, devices))
    other = ", or --hosts N --devices_per_host M" if kind == "slurm" else ""
    raise config.InputError(f"launch {kind} needs --topology NAME{other}.")


def describe(
    kind: str,
    loaded: config.Loaded,
    where: costs.Topology,
    snapshot: launch.Snapshot,
    flags: Mapping[str, Any],
) -> launch.Job:
    """The job of the flags."""
    workdir = flags["workdir"] if "://" in flags["workdir"] else os.path.abspath(flags["workdir"])
    stem = pathlib.PurePosixPath(workdir).name.lower().replace("_", "-").replace(".", "-")
    size = f":{loaded.argument}" if loaded.argument else ""
    overrides = tuple(loaded.overrides)
    if where.platform == "tpu":  # as the plan has it
        overrides = (*overrides, f"mesh_slices={where.slices}")
    own = {name: flags[name] for name in launch.Job.__dataclass_fields__ if name in flags}
    own = {name: tuple(v) if isinstance(v, list) else v for name, v in own.items() if v is not None}
    return launch.Job(
        **own
        | {
            "name": flags["name"] or stem[:40].strip("-"),
            "workdir": workdir,
            "config": snapshot.config + size,
            "overrides": overrides,
            "topology": where,
            "folder": home(flags, kind),
            "python": flags["python"] or (sys.executable if kind == "slurm" else "python3"),
            "grace_seconds": flags["grace"],
            "environment": tuple(flags["env"] or ()),
            "options": tuple(flags.get("sbatch") or ()),
            "buckets": tuple(flags.get("bucket") or ()),
            "volumes": tuple(flags.get("volume") or ()),
            "time_limit": flags.get("time") or "",
        }
    )


def home(flags: Mapping[str, Any], kind: str) -> str:
    """The folder of this machine where a launch is kept.

    WORKDIR/launch under Slurm, whose hosts share the folder; else, as the hosts' workdir is not
    here, beside the caches.
    """
    if flags["launch_dir"]:
        return os.path.abspath(flags["launch_dir"])
    if kind == "slurm" and "://" not in flags["workdir"]:
        return os.path.abspath(os.path.join(flags["workdir"], "launch"))
    cache = os.environ.get("BIGMODEL_CACHE") or os.path.expanduser("~/.cache/bigmodel")
    name = urllib.parse.quote(flags["workdir"], safe="")
    return os.path.join(os.path.abspath(cache), "launches", name)


def check_plan(
    loaded: config.Loaded, where: costs.Topology, saved: str | None, *, unplanned: bool
) -> None:
    """Refuses a job that would not fit, by its plan or the saved one.

    Raises:
        InputError: it does not fit, or nobody can say; with what is missing and the cure.
    """
    if unplanned or not where.kind or where.platform == "cpu":  # no limit of theirs is known
        return
    from bigmodel.plan import answer, command, compiling, plan

    shown = where.name + (f" in {where.slices} slices" if where.slices > 1 else "")
    if saved:
        found = command.read(saved, "plan")
        asked = {"config": answer.about_config(loaded), "topology": where.name}
        for name, value in (asked | {"slices": where.slices, "task": "train"}).items():
            if found.get(name) != value:
                raise config.InputError(
                    f"--plan={saved}: is of {name} {found.get(name)!r}, and the job's is {value!r};"
                    " plan it again, or leave --plan away."
                )
    else:
        try:
            found = plan(loaded, where.name, slices=where.slices)
        except compiling.CompileError as error:
            raise config.InputError(
                f"the compiler refuses this step on {shown}: {error}; --unplanned launches all the "
                "same."
            ) from error
        except config.InputError as error:
            cure = "" if "mesh" in str(error) else " --unplanned launches without a plan."
            raise config.InputError(f"{error}{cure}") from error
    if found["fits"] is False:
        need, limit = found["hbm_bytes"], found["hbm_limit_bytes"]
        raise config.InputError(
            f"the job would not fit {shown}: a device needs {need:,.0f} bytes ({need / GIB:.1f} "
            f"GiB) of {limit:,.0f} ({limit / GIB:.1f} GiB). bigmodel plan --search ranks layouts "
            "that fit; --unplanned launches all the same."
        )


def tool(kind: str, command: Sequence[str]) -> None:
    if shutil.which(command[0]) is None or (kind == "tpu-vm" and shutil.which("gcloud") is None):
        name = "gcloud" if kind == "tpu-vm" else command[0]
        raise config.InputError(
            f"launch: {kind} jobs go through {name}, and there is none on PATH; run this where it "
            "is installed and logged in. --dry_run prints what would be submitted."
        )


def refuse_second(kind: str, folder: pathlib.Path, workdir: str) -> None:
    """Refuses a second launch beside one that is recorded, but for the one that waits on."""
    path = folder / RECORD
    if path.exists() and kind != "tpu-vm" and read(path)["state"] == "submitted":
        raise config.InputError(
            f"{path}: this workdir has been launched. See bigmodel launch status "
            f"--workdir {workdir}; after bigmodel launch stop it can be launched again, and goes "
            "on from its last checkpoint."
        )


def write(folder: pathlib.Path, snapshot: launch.Snapshot, texts: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / snapshot.name).write_bytes(snapshot.content)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    code = folder / f"code-{snapshot.hash[:12]}"
    if not code.exists():  # for hosts that share this folder
        unpacked = folder / f"{code.name}.{os.getpid()}"
        snapshots.unpack(folder / snapshot.name, unpacked)
        unpacked.rename(code)


def keep(folder: pathlib.Path, facts: Mapping[str, Any]) -> None:
    partial = folder / f"{RECORD}.partial"
    partial.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    partial.replace(folder / RECORD)


def recorded(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a workdir's launch."""
    places = [pathlib.Path(home(flags, kind)) / RECORD for kind in ("slurm", "gke")]
    for path in places:
        if path.exists():
            return read(path)
    raise config.InputError(
        f"--workdir={flags['workdir']}: nothing was launched into it from here: there is no "
        f"{' and no '.join(dict.fromkeys(map(str, places)))}."
    )


# A record may be a stranger's, and its texts become words of commands: what each may look like.
WORDS = {
    "id": r"[0-9]*|[a-z0-9]([-a-z0-9]*[a-z0-9])?",
    "namespace": r"[a-z0-9]([-a-z0-9]*[a-z0-9])?",
    "place": r"--(zone|project)=[a-z0-9]([-a-z0-9.:]*[a-z0-9])?",
}


def check_words(found: Mapping[str, Any], path: pathlib.Path) -> None:
    """Raises ValueError where a record holds what no launch has written."""
    for name, pattern in WORDS.items():
        value = found.get(name)
        words = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(word, str) and re.fullmatch(pattern, word) for word in words):
            raise ValueError(name)
    for name in ("hosts", "slices"):
        if not isinstance(found.get(name, 1), int):
            raise ValueError(name)
    if pathlib.Path(found["folder"]).resolve() != path.parent.resolve():
        raise ValueError("folder")


def read(path: pathlib.Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        config.known(f"{path}: kind", found["kind"], launch.CLUSTERS)
        missing = {"id", "state", "folder", "snapshot"} - set(found)
        if missing:
            raise KeyError(*sorted(missing))
        check_words(found, path)
    except config.InputError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise config.InputError(f"{path}: is no record of a launch ({error}).") from error
    return found
