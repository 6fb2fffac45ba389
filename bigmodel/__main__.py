"""The door: flags in, one call out.

Exit status: 0, or 2 for a refused input (one clear message on stderr), or 1 for a failure.
"""

from __future__ import annotations  # config.Loaded would cost an import

import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import bigmodel
from bigmodel import compat, config
from bigmodel.config import CONFIG, Flag
from bigmodel.config.subcommands import (
    DRAWING,
    EVALUATE,
    EXPORT,
    GENERATE,
    IMPORT,
    JSON,
    PLAN,
    PREPARE,
    REPORT,
    SAMPLING,
    SWEEP,
    TOKENIZERS,
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


# Calls out: rooms are imported here, so that --help waits for none of them


def _train(values: Values, loaded: config.Loaded) -> int:
    from bigmodel import checkpoint
    from bigmodel.train import loop, watch

    try:
        loop.train(loaded, values.workdir)
    except loop.Stopped as stopped:
        print(f"bigmodel: {stopped}; the same command goes on from there", file=sys.stderr)
        return stopped.status
    except (watch.NonFiniteError, checkpoint.UnsoundError) as error:
        print(f"bigmodel: {error}", file=sys.stderr)
        return 1
    return 0


def _sweep(values: Values) -> int:
    from bigmodel.sweep import command

    options = {flag.name: values[flag.name].value for flag in SWEEP[:-1]}
    return command(**options, as_json=values.json)


def _evaluate(values: Values) -> None:
    from bigmodel import run

    asked: dict[str, Any] = {name: values[name].value for name in ("num_beams", "max_new_tokens")}
    if values.scores is not None:
        asked["scores"] = tuple(name for name in values.scores.split(",") if name)
    scores = run.evaluate(values.workdir, step=values.step, split=values.split, **asked)
    width = max(map(len, scores), default=0)
    lines = [f"{name:{width}}  {score:.6g}" for name, score in scores.items()]
    print(json.dumps(scores) if values.json else "\n".join(lines))


def _generate(values: Values) -> None:
    if values.out is not None:
        _draw(values)
        return
    inputs = _inputs(values)
    prompts = [] if inputs and values.prompt is values.prompts is None else _prompts(values)
    streams = sys.stdout.isatty() and not values.json and not inputs and values.num_beams == 1
    streams = streams and len(prompts) == values.num_return_sequences == 1
    if streams:
        print(prompts[0], end="\n" if values.chat else "", flush=True)

    from bigmodel import run

    samples = run.generate(
        values.workdir,
        prompts,
        inputs=inputs,
        on_text=(lambda _, __, piece: print(piece, end="", flush=True)) if streams else None,
        **{flag.name: values[flag.name].value for flag in SAMPLING},
    )
    if len(prompts) != len(samples):  # none, one for all, or classes to choose among
        prompts = (prompts if len(prompts) == 1 else [""]) * len(samples)
    columns = {"prompt": prompts, **inputs, "samples": samples}
    if values.json:
        rows = zip(*columns.values(), strict=True)
        found = [dict(zip(columns, row, strict=True)) for row in rows]
        print(json.dumps(found, ensure_ascii=False))
    elif streams:
        print()
    else:
        # An answer about an image does not go on where its question ends.
        begun = [prompt + "\n" * values.chat for prompt in prompts]
        begun = [""] * len(prompts) if "image" in inputs else begun
        whole = [p + text for p, texts in zip(begun, samples, strict=True) for text in texts]
        if inputs:  # a line each, beside the lines of the input
            print("\n".join(" ".join(text.splitlines()) for text in whole))
        else:
            print("\n----\n".join(whole))


def _inputs(values: Values) -> dict[str, list[str]]:
    from bigmodel.data import inputs

    pairs = [inputs.parse(text) for text in values.input or []]
    for name, _ in pairs:
        if [other for other, _ in pairs].count(name) > 1:
            raise config.InputError(
                f"--input: {name!r} is given more than once; one file holds all."
            )
    return dict(pairs)


def _draw(values: Values) -> None:
    if values.prompt is not None or values.prompts is not None:
        raise config.InputError("generate --out DIR draws images out of noise: it takes no prompt.")
    from bigmodel import run

    options = {flag.name: values[flag.name].value for flag in DRAWING}
    files = run.draw_files(values.workdir, values.out, values.input, **options)
    print(json.dumps(files) if values.json else "\n".join(files))


def _prompts(values: Values) -> list[str]:
    if (values.prompt is None) == (values.prompts is None):
        raise config.InputError("generate needs --prompt TEXT or --prompts FILE, and only one.")
    if values.prompt is not None:
        return [values.prompt]
    path = pathlib.Path(values.prompts)
    if not path.is_file():
        files = [str(f) for f in path.parent.glob("*")]
        near = config.nearest(values.prompts, files)
        raise config.InputError(f"--prompts={values.prompts}: no such file.{near}")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise config.InputError(f"--prompts={values.prompts}: is no UTF-8 text.") from error
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise config.InputError(f"--prompts={values.prompts}: holds no prompt; one a line.")
    return prompts


def _config(values: Values, loaded: config.Loaded) -> None:
    from bigmodel import recipe

    found = recipe.resolve(loaded).config
    if values.diff:
        other = recipe.resolve(config.load(values.diff)).config
        pairs = config.differences(found, other)
        print(json.dumps(pairs) if values.json else "\n".join(config.diff(found, other)))
    elif values.json:
        print(config.to_json(found))
    else:
        fields = config.flat(config.plain(found))
        print("\n".join(f"{path} = {config.shown(value)}" for path, value in fields.items()))
        if recipe.tuning_asked(found):  # of any mesh: names and shapes are those of one device
            print("", *recipe.tuning_table(recipe.make_stored(loaded).tuning), sep="\n")


def _prepare(values: Values, loaded: config.Loaded) -> None:
    from bigmodel import recipe

    where = values.runner, values.runner_options, values.runner_place
    print(recipe.prepare_data(loaded, recipe.preparing(), *where))


def _inspect(values: Values, loaded: config.Loaded) -> None:
    from bigmodel import recipe

    print(recipe.inspect_data(loaded, recipe.preparing(), report=values.report or ""))


def _train_tokenizer(values: Values, loaded: config.Loaded) -> None:
    from bigmodel import recipe

    chosen = dict(kind=values.kind, size=values.size, out=values.out)
    print(recipe.train_tokenizer(loaded, **chosen, progress=recipe.preparing()))


def _bench(values: Values, loaded: config.Loaded) -> None:
    from bigmodel.plan import here
    from bigmodel.train import bench

    found = bench.bench(loaded, predict=here.predict)
    print(json.dumps(found) if values.json else bench.table(found))


def _plan(values: Values, loaded: config.Loaded | None) -> int | None:
    from bigmodel.plan import command

    return command.run(loaded, **{flag.name: values[flag.name].value for flag in PLAN[1:]})


def _import(values: Values, overrides: Sequence[str]) -> None:
    from bigmodel import weights

    weights.import_hf(values["from"].value, values.workdir, overrides=overrides)


def _export(values: Values) -> None:
    from bigmodel import weights

    names = ("adapter", "step", "architecture", "dtype")
    weights.export(values.workdir, values.to, **{name: values[name].value for name in names})


# The table

# fmt: off
COMMANDS = {
    "train": Command(_train, "trains, or resumes what the folder holds", (CONFIG, WORKDIR)),
    "evaluate": Command(_evaluate, "scores a checkpoint", EVALUATE),
    "generate": Command(_generate, "samples text, or draws images", GENERATE),
    "sweep": Command(_sweep, "trains a list of configs, one after another", SWEEP),
    "config": Command(_config, "prints the resolved config, or how two differ", (
        CONFIG,
        Flag("diff", str, "FILE[:SIZE]", "prints the fields that are other in this config"),
        JSON,
    )),
    "data prepare": Command(_prepare, "builds the token cache", PREPARE),
    "data inspect": Command(_inspect, "shows what the data holds", (CONFIG, REPORT)),
    "data train-tokenizer": Command(_train_tokenizer, "trains a tokenizer on the data", (
        CONFIG,
        Flag("kind", str, "KIND", "the tokenizer's model", "bpe", choices=TOKENIZERS),
        Flag("size", int, "N", "tokens in the vocabulary", 8192, bounds=(1, None)),
        Flag("out", str, "FILE", "where the tokenizer.json goes", required=True),
    )),
    "import": Command(_import, "takes weights in from a Hugging Face folder", IMPORT, True),
    "export": Command(_export, "writes weights as a Hugging Face folder", EXPORT),
    "plan": Command(_plan, "tells what a step costs on hardware that is not here", PLAN),
    "bench": Command(_bench, "measures a step of the config here", (CONFIG, JSON)),
}
# fmt: on

if __name__ == "__main__":
    sys.exit(main())
