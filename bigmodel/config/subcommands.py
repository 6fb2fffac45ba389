"""The flags of subcommands that have many."""

import dataclasses
from collections.abc import Sequence

from bigmodel.config.errors import InputError, nearest
from bigmodel.config.flags import CONFIG, Flag

WORKDIR = Flag("workdir", str, "DIR", "the run's folder", required=True)
REPORT = Flag("report", str, "OUT.html", "writes a page to look at")
JSON = Flag("json", bool, "", "prints JSON, and nothing else on stdout", False)
PLANNED = ("train", "evaluate", "prefill", "decode")
TOKENIZERS = ("bpe", "unigram", "wordpiece")
# fmt: off
SAMPLING = (
    Flag("num_return_sequences", int, "N", "samples for each prompt", 1, bounds=(1, None)),
    Flag("max_new_tokens", int, "N", "tokens to add at most", bounds=(1, None)),
    Flag("max_length", int, "N", "tokens at most, the prompt's too", bounds=(1, None)),
    Flag("temperature", float, "X", "0 takes the likeliest token", 1.0, bounds=(0, None)),
    Flag("top_k", int, "N", "draws from the N likeliest; 0: from all", 0, bounds=(0, None)),
    Flag("top_p", float, "X", "draws from the likeliest, X in sum", 1.0, bounds=(0, 1)),
    Flag("min_p", float, "X", "drops what is under X times the likeliest", 0.0, bounds=(0, 1)),
    Flag("repetition_penalty", float, "X", "over 1: fewer repetitions", 1.0, bounds=(0, None)),
    Flag("seed", int, "N", "the same seed draws the same text", 0, bounds=(0, None)),
    Flag("num_beams", int, "N", "over 1: a search, draws nothing", 1, bounds=(1, None)),
    Flag("length_penalty", float, "X", "of a search: more of it, longer texts", 0.6),
    Flag("chat", bool, "", "prompts are what a user says, and are answered", False),
)
DRAWING = (
    *(flag for flag in SAMPLING if flag.name in ("num_return_sequences", "seed")),
    Flag("num_inference_steps", int, "N", "steps from noise to an image", 50, bounds=(1, None)),
    Flag("guidance_scale", float, "X", "over 1: more like its class", 1.0, bounds=(0, None)),
    Flag("solver", str, "NAME", "of those steps", "heun", choices=("euler", "heun")),
)
EVALUATE = (
    WORKDIR,
    Flag("step", int, "N", "the checkpoint's step; the newest if not given", bounds=(0, None)),
    Flag("split", str, "NAME", "the data split; the config's evaluations if not given"),
    Flag("scores", str, "A,B", "scores such as bleu,chrf; those of the config if not given"),
    Flag("num_beams", int, "N", "over 1: a search for the texts to score", bounds=(1, None)),
    Flag("max_new_tokens", int, "N", "of such a text at most", bounds=(1, None)),
    JSON,
)
GENERATE = (
    WORKDIR,
    Flag("prompt", str, "TEXT", "what the text begins with"),
    Flag("prompts", str, "FILE", "many prompts, one a line"),
    *SAMPLING,
    Flag("out", str, "DIR", "where images go as PNG files, for a run that draws some"),
    Flag("input", str, "NAME=FILE", "source (or =TEXT), image, audio; label=NUMBER, repeated",
         repeats=True),
    *DRAWING[2:],
    JSON,
)
PREPARE = (
    CONFIG,
    Flag("runner", str, "NAME", "prepares by Apache Beam: DirectRunner, DataflowRunner, ..."),
    Flag("runner_options", str, '"--A=B ..."', "the flags of the runner"),
    Flag("runner_place", str, "DIR", "a folder or bucket that its machines and this one reach"),
)
SWEEP = (
    Flag("configs", str, "FILE", "Python with get_configs(), the list", required=True),
    dataclasses.replace(WORKDIR, help="each run goes to DIR/NAME"),
    Flag("hosts", int, "N", "processes that share the runs out", 1, bounds=(1, None)),
    Flag("host", int, "I", "which of them this is, from 0", 0, bounds=(0, None)),
    Flag("table", bool, "", "runs nothing, prints the table of what is there", False),
    JSON,
)
LOCAL = (
    CONFIG,
    WORKDIR,
    Flag("hosts", int, "N", "processes, each a host", 2, bounds=(1, None)),
    Flag("devices_per_host", int, "N", "simulated CPU devices of each", 1, bounds=(1, None)),
    Flag("restarts", int, "N", "starts anew that come no further, at most", 3, bounds=(0, None)),
    Flag("grace", float, "SECONDS", "to end after SIGTERM", 60.0, bounds=(0, None)),
)
RUN_REPORT = (
    WORKDIR,
    Flag("out", str, "FILE", "where the page goes; DIR/report.html if not given"),
    Flag("samples", int, "N", "texts that the newest checkpoint writes", 0, bounds=(0, None)),
)
IMPORT = (
    dataclasses.replace(CONFIG, value="", help="", required=False),
    dataclasses.replace(WORKDIR, help="where the run goes, ready for generate and init_from"),
    Flag("from", str, "DIR", "a Hugging Face folder: config.json, safetensors", required=True),
)
EXPORT = (
    WORKDIR,
    Flag("to", str, "DIR", "the folder that is written", required=True),
    Flag("step", int, "N", "the checkpoint's step; the newest if not given", bounds=(0, None)),
    Flag("architecture", str, "NAME", "as LlamaForCausalLM; what fits, if not given"),
    Flag("dtype", str, "NAME", "of what is written", choices=("float32", "bfloat16", "float16")),
    Flag("adapter", bool, "", "the LoRA adapters alone, as the PEFT library loads them", False),
)
PLAN = (
    dataclasses.replace(CONFIG, required=False),
    Flag("topology", str, "NAME", "v5p:8x8x8, gpu:h200:128x8 (hosts x GPUs) or cpu:8"),
    Flag("slices", int, "N", "parts joined by the data-centre network", 1, bounds=(1, None)),
    Flag("task", str, "TASK", "what is planned", "train", choices=PLANNED),
    Flag("prompt_tokens", int, "N", "of prefill, in the cache of decode", 1024, bounds=(1, None)),
    Flag("full", bool, "", "compiles to the end: minutes, not seconds", False),
    Flag("search", bool, "", "ranks the layouts of the topology, and compiles the best", False),
    Flag("objective", str, "WHAT", "of a search", "time", choices=("time", "cost", "chips")),
    Flag("compiled", int, "N", "layouts that a search compiles", 12, bounds=(0, None)),
    REPORT,
    Flag("compare", str, "A.json B.json", "what changed between two answers of --json", words=2),
    Flag("budget", str, "FILE", "fails where the plan moves or holds more than this one of --json"),
    Flag("calibrate", float, "SECONDS", "of a measured step: keeps what it says of the chip"),
    JSON,
)
LAUNCH = (
    CONFIG,
    WORKDIR,
    Flag("topology", str, "NAME", "v5p:8x8x8, gpu:h200:128x8 (hosts x GPUs) or cpu:8 (a host)"),
    Flag("slices", int, "N", "of TPUs; of cpu:8 hosts", 1, bounds=(1, None)),
    Flag("name", str, "NAME", "of the job; the workdir's, if not given"),
    Flag("python", str, "FILE", "the interpreter of the hosts; of Slurm this one, else python3"),
    Flag("setup", str, "LINE", "a shell line that every host runs first"),
    Flag("env", str, "NAME=VALUE", "a variable of every process, repeated", repeats=True),
    Flag("restarts", int, "N", "starts after failures, at most", 3, bounds=(0, None)),
    Flag("grace", int, "SECONDS", "from SIGTERM to the end, for the last save", 120),
    Flag("launch_dir", str, "DIR", "keeps the launch; of Slurm WORKDIR/launch if not given"),
    Flag("plan", str, "FILE", "a saved plan of --json, instead of a new one"),
    Flag("unplanned", bool, "", "launches what may not fit", False),
    Flag("dry_run", bool, "", "prints what would be submitted", False),
)
SPOT = Flag("spot", bool, "", "machines that may be taken away", False)
ACCOUNT = Flag("service_account", str, "NAME", "that the processes act as")
CLUSTERS = {
    "slurm": (
        *LAUNCH,
        Flag("hosts", int, "N", "with --devices_per_host: GPUs of any kind", bounds=(1, None)),
        Flag("devices_per_host", int, "M", "with --hosts", bounds=(1, None)),
        Flag("partition", str, "NAME", "of the cluster"),
        Flag("account", str, "NAME", "that pays"),
        Flag("time", str, "TIME", "the limit, as 12:00:00; it goes on after it"),
        Flag("sbatch", str, "--OPTION", "of sbatch, as --sbatch=--qos=high, repeated",
             repeats=True),
    ),
    "gke": (
        *LAUNCH,
        Flag("image", str, "NAME", "a container with what bigmodel needs; code is sent along"),
        Flag("namespace", str, "NAME", "of Kubernetes", "default"),
        ACCOUNT,
        Flag("bucket", str, "NAME=/PATH", "mounted in every pod, repeated", repeats=True),
        Flag("volume", str, "CLAIM=/PATH", "mounted in every pod, repeated", repeats=True),
        SPOT,
    ),
    "tpu-vm": (
        *LAUNCH,
        Flag("zone", str, "NAME", "as us-east5-a"),
        Flag("project", str, "NAME", "of Google Cloud; gcloud's own, if not given"),
        Flag("runtime", str, "VERSION", "of the machines' software; the generation's usual one"),
        ACCOUNT,
        SPOT,
        Flag("reserved", bool, "", "machines of a reservation", False),
    ),
}
WATCH = (WORKDIR, *(flag for flag in LAUNCH if flag.name == "launch_dir"))
LOGS = (
    *WATCH,
    Flag("lines", int, "N", "the last ones", 100, bounds=(1, None)),
    Flag("follow", bool, "", "goes on as they are written", False),
)
# fmt: on


def chosen(argv: list[str], known: Sequence[str]) -> tuple[str, list[str]]:
    """The name of a known subcommand, which may be of two words, and what follows it."""
    first, *rest = argv
    if first in known:
        return first, rest
    seconds = [name.split()[1] for name in known if name.startswith(f"{first} ")]
    if not seconds:
        firsts = list(dict.fromkeys(name.split()[0] for name in known))
        near = nearest(first, firsts)
        raise InputError(f'no subcommand "{first}".{near} There are: {", ".join(firsts)}.')
    second, *rest = rest or [""]
    if second not in seconds:
        near = nearest(second, seconds)
        does = f"{first} does: {', '.join(seconds)}"
        raise InputError(f'no subcommand "{first} {second}".{near} {does}.')
    return f"{first} {second}", rest
