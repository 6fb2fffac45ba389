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
