"""Laws of `bigmodel launch`: what does not fit is refused, what was started can be watched."""

import json
import shlex
import shutil

import pytest

import bigmodel.plan
from bigmodel import __main__, compat, launching
from bigmodel.launch import snapshot
from bigmodel.plan import compiling
from tests.launch import tools

CONFIG = """
from ml_collections import ConfigDict


def get_config(size="1b"):
    return ConfigDict(dict(steps=10, model=dict(width=64))).lock()
"""
SLURM = "launch slurm --config=gpt.py:tiny --workdir=run --config.steps=9"
GPUS = f"{SLURM} --topology=gpu:h200:2x8"
GKE = "launch gke --config=gpt.py --workdir=gs://b/run --image=i --topology=v5e:4x4 --unplanned"
TPU_VM = (
    "launch tpu-vm --config=gpt.py --workdir=gs://b/run --zone=z --topology=v5e:4x4 --unplanned"
)
PLAN = {"fits": True, "hbm_bytes": 5e9, "hbm_limit_bytes": 10e9, "collectives": []}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder with a config, the cluster's commands, and a plan that needs no compiler."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compat, "tune_process", lambda: None)
    monkeypatch.setenv("BIGMODEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bigmodel.plan, "plan", lambda loaded, where, slices: dict(PLAN))
    monkeypatch.setattr(snapshot, "PARTS", ("bigmodel/__main__.py",))
    (tmp_path / "gpt.py").write_text(CONFIG)
    stand_ins = tools.Tools(tmp_path, monkeypatch)
    stand_ins.put("sbatch", "echo '17;lab'")
    for name in ("squeue", "scancel", "kubectl"):
        stand_ins.put(name)
    stand_ins.put("gcloud", "case $* in *--format*) echo ACTIVE;; esac")
    return stand_ins


def run(line):
    return __main__.main(shlex.split(line))


def record(folder):
    (path,) = folder.glob(f"**/{launching.RECORD}")
    return json.loads(path.read_text())


def test_what_is_submitted_is_kept_and_submitted_with_the_code_beside_it(cluster, tmp_path):
    assert run(GPUS) == 0
    folder = tmp_path / "run/launch"
    assert cluster.calls == [f"sbatch --parsable {folder}/job.sbatch"]
    kept = record(tmp_path)
    assert (kept["kind"], kept["id"], kept["state"]) == ("slurm", "17", "submitted")
    script = (folder / "job.sbatch").read_text()
    assert f"--workdir {tmp_path}/run --config.steps=9" in script
    code = folder / f"code-{kept['snapshot'][:12]}"
    assert (code / "bigmodel/__main__.py").exists()
    assert f"--config {code}/launched/gpt.py:tiny" in script
    assert (code / "launched/gpt.py").read_text() == CONFIG


def test_a_dry_run_prints_and_leaves_nothing(cluster, tmp_path, capsys):
    assert run(f"{GPUS} --dry_run") == 0
    printed = capsys.readouterr().out
    assert "#SBATCH --nodes=2" in printed
    assert printed.rstrip().endswith(f"# sbatch --parsable {tmp_path}/run/launch/job.sbatch")
    assert cluster.calls == []
    assert not (tmp_path / "run").exists()


def test_a_job_under_slurm_is_watched_and_ended_by_slurms_own_commands(cluster, tmp_path, capfd):
    run(GPUS)
    (tmp_path / "run/launch/slurm-17.log").write_text("one\ntwo\nthree\n")
    capfd.readouterr()
    assert run("launch status --workdir=run") == 0
    assert run("launch logs --workdir=run --lines=2") == 0
    assert capfd.readouterr().out == "two\nthree\n"
    assert run("launch stop --workdir=run") == 0
    assert cluster.calls[1].startswith("squeue --jobs=17 --states=all")
    assert cluster.calls[2] == "scancel --quiet 17"
    assert record(tmp_path)["state"] == "stopped"


def test_a_second_launch_waits_until_the_first_is_stopped(cluster, tmp_path, capsys):
    run(GPUS)
    assert run(GPUS) == 2
    assert "has been launched" in capsys.readouterr().err
    run("launch stop --workdir=run")
    assert run(GPUS) == 0
    assert [call.split()[0] for call in cluster.calls] == ["sbatch", "scancel", "sbatch"]


def test_a_job_on_kubernetes_is_kept_here_watched_and_ended(cluster, tmp_path):
    assert run(GKE) == 0
    for line in ("status", "logs --follow", "stop"):
        assert run(f"launch {line} --workdir=gs://b/run") == 0
    code = record(tmp_path / "cache")["snapshot"][:12]
    assert [" ".join(call.split()[1:4]) for call in cluster.calls] == [
        "apply --server-side -f",
        "get jobset run",
        "get pods --namespace=default",
        "logs --namespace=default --container=train",
        f"delete configmap run-{code}",
        "delete jobset run",
    ]
    assert "--follow" in cluster.calls[3]


def test_tpu_machines_are_started_watched_and_given_back(cluster, tmp_path):
    assert run(TPU_VM) == 0
    started = len(cluster.calls)
    for line in ("status", "logs", "stop"):
        assert run(f"launch {line} --workdir=gs://b/run") == 0
    words = [call.removeprefix("gcloud compute tpus ") for call in cluster.calls[started:]]
    assert words[0] == "queued-resources describe run --zone=z"
    assert words[1].startswith("tpu-vm ssh run --worker=all --zone=z --command=tail -n 100")
    assert words[2].endswith("worker.sh stop")
    assert words[3] == "queued-resources delete run --zone=z --force --quiet"


def test_machines_are_given_back_though_they_can_no_longer_be_reached(cluster, tmp_path):
    run(TPU_VM)
    cluster.put("gcloud", "case $* in *ssh*) exit 1;; esac")
    assert run("launch stop --workdir=gs://b/run") == 0
    assert cluster.calls[-1].startswith("gcloud compute tpus queued-resources delete")
    cluster.put("gcloud", "exit 1")
    assert run("launch stop --workdir=gs://b/run") == 1


def test_what_the_cluster_refuses_is_status_1_and_can_be_launched_again(cluster, tmp_path, capfd):
    cluster.put("sbatch", "echo 'sbatch: error: invalid partition' >&2; exit 1")
    assert run(GPUS) == 1
    assert "invalid partition" in capfd.readouterr().err
    assert run("launch status --workdir=run") == 2
    assert "never submitted" in capfd.readouterr().err
    cluster.put("sbatch", "echo 18")
    assert run(GPUS) == 0
    assert record(tmp_path)["id"] == "18"


def test_slices_of_the_topology_are_those_of_the_mesh(cluster, capsys):
    run(f"{GKE.replace('4x4', '4x4 --slices=2')} --dry_run")
    assert "--config.mesh_slices=2" in capsys.readouterr().out


REFUSED = {
    SLURM: ["needs --topology NAME, or --hosts N"],
    f"{GPUS} --hosts=2": ["--topology names the hosts"],
    f"{SLURM} --topology=gpu:h20:2x8": ["no GPU 'h20'"],
    f"{SLURM} --topology=v5p:4x4x4": ["launch gke and launch tpu-vm"],
    f"{GPUS} --name=a_b": ["--name=a_b", "small letters"],
    f"{GPUS} --grace=1": ["--grace=1", "60 seconds"],
    f"{GPUS} --image=x": ["launch slurm takes no --image"],
    f"{GPUS} --plan=none.json": ["--plan=none.json: no such file"],
    "launch slrum --config=gpt.py": ['no subcommand "launch slrum"', "slurm"],
    "launch status --workdir=run": ["nothing was launched into it"],
    GKE.replace("--image=i", ""): ["--image NAME"],
    TPU_VM.replace("v5e:4x4", "tpu7x:2x2x2"): ["has no tpu7x"],
}


@pytest.mark.parametrize("line", REFUSED)
def test_a_refused_launch_is_one_line_and_leaves_nothing(cluster, tmp_path, capsys, line):
    assert run(line) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    for part in REFUSED[line]:
        assert part in told
    assert cluster.calls == []
    assert not list(tmp_path.glob(f"**/{launching.RECORD}"))


@pytest.mark.parametrize(("line", "name"), [(GPUS, "sbatch"), (GKE, "kubectl"), (TPU_VM, "gcloud")])
def test_a_command_that_is_not_here_is_one_line(cluster, tmp_path, monkeypatch, capsys, line, name):
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == name else tool)
    assert run(line) == 2
    assert f"go through {name}, and there is none on PATH" in capsys.readouterr().err
    assert not list(tmp_path.glob(f"**/{launching.RECORD}"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "slurm"}', '{"kind": "x", "id": "1"}'])
def test_a_record_that_is_none_is_refused(cluster, tmp_path, text):
    (tmp_path / "run/launch").mkdir(parents=True)
    (tmp_path / "run/launch/launch.json").write_text(text)
    assert run("launch stop --workdir=run") == 2
    assert cluster.calls == []


# The gate


def test_a_job_that_would_not_fit_is_refused_with_the_bytes(cluster, monkeypatch, capsys):
    over = PLAN | {"fits": False, "hbm_bytes": 12_884_901_888, "hbm_limit_bytes": 10_737_418_240}
    monkeypatch.setattr(bigmodel.plan, "plan", lambda loaded, where, slices: over)
    assert run(GPUS) == 2
    told = capsys.readouterr().err
    assert "needs 12,884,901,888 bytes (12.0 GiB) of 10,737,418,240 (10.0 GiB)" in told
    assert "gpu:h200:2x8" in told
    assert cluster.calls == []
    assert run(f"{GPUS} --unplanned") == 0


def test_what_the_compiler_refuses_is_refused(cluster, monkeypatch, capsys):
    def refuse(*_, **__):
        raise compiling.CompileError("an option that is none")

    monkeypatch.setattr(bigmodel.plan, "plan", refuse)
    assert run(GPUS) == 2
    assert "an option that is none; --unplanned" in capsys.readouterr().err


def test_a_saved_plan_stands_for_a_new_one_if_it_is_of_this_job(cluster, tmp_path, capsys):
    about = {"path": "gpt.py", "argument": "tiny", "overrides": ["steps=9"]}
    of_job = {"config": about, "topology": "gpu:h200:2x8", "slices": 1, "task": "train"}
    saved = PLAN | of_job | {"fits": False}
    (tmp_path / "plan.json").write_text(json.dumps(saved))
    assert run(f"{GPUS} --plan=plan.json") == 2
    assert "would not fit" in capsys.readouterr().err
    (tmp_path / "plan.json").write_text(json.dumps(saved | {"topology": "gpu:h200:4x8"}))
    assert run(f"{GPUS} --plan=plan.json") == 2
    assert "is of topology 'gpu:h200:4x8'" in capsys.readouterr().err
    (tmp_path / "plan.json").write_text(json.dumps(saved | {"fits": True}))
    assert run(f"{GPUS} --plan=plan.json") == 0


def test_devices_without_a_known_limit_are_not_planned(cluster, monkeypatch):
    monkeypatch.setattr(bigmodel.plan, "plan", None)
    assert run(f"{SLURM} --topology=cpu:2 --slices=2") == 0
    assert run(f"{SLURM.replace('=run', '=other')} --hosts=2 --devices_per_host=4") == 0


@pytest.mark.parametrize(
    "planted",
    [
        {"id": "--kubeconfig=/tmp/k"},
        {"namespace": "-x"},
        {"place": ["--ssh-flag=-oProxyCommand=touch /tmp/x"]},
        {"hosts": "2; touch x"},
        {"folder": "/etc"},
    ],
    ids=lambda planted: next(iter(planted)),
)
def test_a_record_that_no_launch_has_written_becomes_no_command(tmp_path, planted):
    facts = {"kind": "gke", "id": "a", "state": "submitted", "snapshot": "s", "hosts": 2}
    path = tmp_path / launching.RECORD
    launching.keep(tmp_path, facts | {"folder": str(tmp_path)})
    assert launching.read(path)["id"] == "a"
    launching.keep(tmp_path, facts | {"folder": str(tmp_path)} | planted)
    with pytest.raises(launching.config.InputError, match="is no record of a launch"):
        launching.read(path)
