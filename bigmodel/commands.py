"""What each subcommand does with its flags: one call out, and its result told.

Rooms are imported where they are used, so that --help waits for none of them.
"""

from __future__ import annotations  # config.Loaded would cost an import

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from bigmodel import config
from bigmodel.config.subcommands import DRAWING, PLAN, SAMPLING, SWEEP

Values = Any  # absl's FlagValues: each flag's value is an attribute


def train(values: Values, loaded: config.Loaded) -> int:
    from bigmodel import checkpoint, compat
    from bigmodel.train import goodput, loop, rollcall, safety

    try:
        loop.train(loaded, values.workdir, spent=goodput.process_age(), kept=compat.kept_steps())
    except safety.Stopped as stopped:
        print(f"bigmodel: {stopped}; the same command goes on from there", file=sys.stderr)
        return stopped.status
    except (*safety.SHARED[1:], checkpoint.SaveError, rollcall.AbsentError) as error:
        print(f"bigmodel: {error}", file=sys.stderr)
        return 1
    return 0


def launch_local(values: Values, loaded: config.Loaded) -> int:
    from bigmodel.launch import local
    from bigmodel.train import workdir

    folder = workdir.place(values.workdir)
    is_local = "://" not in str(folder)
    logs = pathlib.Path(folder) / "logs" if is_local else pathlib.Path("logs", folder.name)
    flags = [f"--config={values.config}", f"--workdir={values.workdir}"]
    flags += [f"--config.{override}" for override in loaded.overrides]

    supervisor = local.Supervisor(
        [sys.executable, "-m", "bigmodel", "train", *flags],
        hosts=values.hosts,
        devices=values.devices_per_host,
        logs=logs,
        restarts=values.restarts,
        grace=values.grace,
        progress=lambda: local.newest(folder / "checkpoints", loaded.config.checkpoint.local),
        show=lambda text: print(text, file=sys.stderr, flush=True),
    )
    return supervisor.run()


def sweep(values: Values) -> int:
    from bigmodel.sweep import command

    options = {flag.name: values[flag.name].value for flag in SWEEP[:-1]}
    return command(**options, as_json=values.json)


def evaluate(values: Values) -> None:
    from bigmodel import run

    asked: dict[str, Any] = {name: values[name].value for name in ("num_beams", "max_new_tokens")}
    if values.scores is not None:
        asked["scores"] = tuple(name for name in values.scores.split(",") if name)
    scores = run.evaluate(values.workdir, step=values.step, split=values.split, **asked)
    width = max(map(len, scores), default=0)
    lines = [f"{name:{width}}  {score:.6g}" for name, score in scores.items()]
    print(json.dumps(scores) if values.json else "\n".join(lines))


def generate(values: Values) -> None:
    if values.out is not None:
        draw_images(values)
        return
    inputs = read_inputs(values)
    prompts = [] if inputs and values.prompt is values.prompts is None else read_prompts(values)
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


def read_inputs(values: Values) -> dict[str, list[str]]:
    from bigmodel.data import inputs

    pairs = [inputs.parse(text) for text in values.input or []]
    for name, _ in pairs:
        if [other for other, _ in pairs].count(name) > 1:
            raise config.InputError(
                f"--input: {name!r} is given more than once; one file holds all."
            )
    return dict(pairs)


def draw_images(values: Values) -> None:
    if values.prompt is not None or values.prompts is not None:
        raise config.InputError("generate --out DIR draws images out of noise: it takes no prompt.")
    from bigmodel import run

    options = {flag.name: values[flag.name].value for flag in DRAWING}
    files = run.draw_files(values.workdir, values.out, values.input, **options)
    print(json.dumps(files) if values.json else "\n".join(files))


def read_prompts(values: Values) -> list[str]:
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


def report(values: Values) -> None:
    from bigmodel import reporting

    print(f"report: {reporting.report(values.workdir, values.out or '', samples=values.samples)}")


def show_config(values: Values, loaded: config.Loaded) -> None:
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


def prepare(values: Values, loaded: config.Loaded) -> None:
    from bigmodel import recipe

    where = values.runner, values.runner_options, values.runner_place
    print(recipe.prepare_data(loaded, recipe.preparing(), *where))


def inspect(values: Values, loaded: config.Loaded) -> None:
    from bigmodel import recipe

    print(recipe.inspect_data(loaded, recipe.preparing(), report=values.report or ""))


def train_tokenizer(values: Values, loaded: config.Loaded) -> None:
    from bigmodel import recipe

    chosen = dict(kind=values.kind, size=values.size, out=values.out)
    print(recipe.train_tokenizer(loaded, **chosen, progress=recipe.preparing()))


def bench(values: Values, loaded: config.Loaded) -> None:
    from bigmodel.plan import here
    from bigmodel.train import bench

    found = bench.bench(loaded, predict=here.predict)
    print(json.dumps(found) if values.json else bench.table(found))


def plan(values: Values, loaded: config.Loaded | None) -> int | None:
    from bigmodel.plan import command

    return command.run(loaded, **{flag.name: values[flag.name].value for flag in PLAN[1:]})


def import_hf(values: Values, overrides: Sequence[str]) -> None:
    from bigmodel import weights

    weights.import_hf(values["from"].value, values.workdir, overrides=overrides)


def export(values: Values) -> None:
    from bigmodel import weights

    names = ("adapter", "step", "architecture", "dtype")
    weights.export(values.workdir, values.to, **{name: values[name].value for name in names})


def launch(kind: str, values: Values, loaded: config.Loaded) -> int:
    from bigmodel import launching

    return launching.start(kind, loaded, values.flag_values_dict())


def watch(verb: str, values: Values) -> int:
    from bigmodel import launching

    return launching.watch(verb, values.flag_values_dict())
