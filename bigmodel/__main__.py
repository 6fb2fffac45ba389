"""The door: flags in, one call out.

Exit status: 0, or 2 for a refused input (one clear message on stderr), or 1 for a failure.
"""

from __future__ import annotations  # config.Loaded would cost an import

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import bigmodel
from bigmodel import commands, compat, config
from bigmodel.config import CONFIG, Flag
from bigmodel.config.subcommands import (
    CLUSTERS,
    EVALUATE,
    EXPORT,
    GENERATE,
    IMPORT,
    JSON,
    LOCAL,
    LOGS,
    PLAN,
    PREPARE,
    REPORT,
    RUN_REPORT,
    SWEEP,
    TOKENIZERS,
    WATCH,
    WORKDIR,
    chosen,
)

Values = Any  # absl's FlagValues: each flag's value is an attribute


@dataclasses.dataclass(frozen=True)
class Command:
    """One subcommand.

    Attributes:
        call: takes the flags' values, and the loaded config where there is one; may return a
            status.
        overrides: whether the call takes the overrides of a config that it makes itself.
    """

    call: Callable[..., int | None]
    help: str
    flags: tuple[Flag, ...]
    overrides: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except config.InputError as error:
        print(f"bigmodel: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nbigmodel: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has left; Python must not find that out again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None:  # no file's fault
            raise
        print(f"bigmodel: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("--help", "-h", "help"):
        print(_overview(), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] == "--version":
        print(bigmodel.__version__)
        return 0
    if {"--help", "-h"} & set(argv):
        words = [word for word in argv if not word.startswith("-")]
        names = [name for name in COMMANDS if name.split()[: len(words)] == words]
        names = names or [chosen(argv, list(COMMANDS))[0]]
        print("\n\n".join(config.usage(n, COMMANDS[n].help, COMMANDS[n].flags) for n in names))
        return 0
    name, argv = chosen(argv, list(COMMANDS))
    command = COMMANDS[name]
    values, overrides = config.parse(name, command.flags, argv)
    compat.tune_process()
    if command.overrides:
        status = command.call(values, overrides)
    elif any(flag.name == CONFIG.name for flag in command.flags):
        given = values.config is not None
        status = command.call(values, config.load(values.config, overrides) if given else None)
    else:
        status = command.call(values)
    return status or 0


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{command.help}" for name, command in COMMANDS.items()]
    last = "bigmodel SUBCOMMAND --help lists its flags. Exit status: 0, 2: input refused, or 1."
    return "\n".join(["usage: bigmodel SUBCOMMAND [flags]", "", *lines, "", last])


# The table

# fmt: off
COMMANDS = {
    "train": Command(commands.train, "trains, or resumes what the folder holds", (CONFIG, WORKDIR)),
    "evaluate": Command(commands.evaluate, "scores a checkpoint", EVALUATE),
    "generate": Command(commands.generate, "samples text, or draws images", GENERATE),
    "launch local": Command(commands.launch_local, "trains as a job of processes here", LOCAL),
    "report": Command(commands.report, "writes one page of a run", RUN_REPORT),
    "sweep": Command(commands.sweep, "trains a list of configs, one after another", SWEEP),
    "config": Command(commands.show_config, "prints the resolved config, or how two differ", (
        CONFIG,
        Flag("diff", str, "FILE[:SIZE]", "prints the fields that are other in this config"),
        JSON,
    )),
    "data prepare": Command(commands.prepare, "builds the token cache", PREPARE),
    "data inspect": Command(commands.inspect, "shows what the data holds", (CONFIG, REPORT)),
    "data train-tokenizer": Command(commands.train_tokenizer, "trains a tokenizer on the data", (
        CONFIG,
        Flag("kind", str, "KIND", "the tokenizer's model", "bpe", choices=TOKENIZERS),
        Flag("size", int, "N", "tokens in the vocabulary", 8192, bounds=(1, None)),
        Flag("out", str, "FILE", "where the tokenizer.json goes", required=True),
    )),
    "import": Command(commands.import_hf, "takes weights from a Hugging Face folder", IMPORT, True),
    "export": Command(commands.export, "writes weights as a Hugging Face folder", EXPORT),
    "plan": Command(commands.plan, "tells what a step costs on hardware that is not here", PLAN),
    "bench": Command(commands.bench, "measures a step of the config here", (CONFIG, JSON)),
    **{f"launch {kind}": Command(
        functools.partial(commands.launch, kind), f"starts a job on {cluster}", CLUSTERS[kind]
    ) for kind, cluster in (
        ("slurm", "a Slurm cluster"),
        ("gke", "Google Kubernetes Engine"),
        ("tpu-vm", "TPU virtual machines"),
    )},
    "launch status": Command(functools.partial(commands.watch, "status"), "how the job is", WATCH),
    "launch logs": Command(functools.partial(commands.watch, "logs"), "what it said", LOGS),
    "launch stop": Command(functools.partial(commands.watch, "stop"), "ends it, saved", WATCH),
}
# fmt: on

if __name__ == "__main__":
    sys.exit(main())
