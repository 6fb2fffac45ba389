"""What `bigmodel plan` does with its flags: a plan, a search, a comparison, a budget."""

import dataclasses
import json
import pathlib
import sys
from typing import Any

from bigmodel import config
from bigmodel.plan import (
    answer,
    budget,
    calibrate,
    check_mesh,
    compiling,
    cures,
    make_request,
    search,
)
from bigmodel.report import markup, plan_page, plan_screen


@dataclasses.dataclass(frozen=True)
class Flags:
    """The flags' values; see `bigmodel plan --help`."""

    topology: str | None
    slices: int
    task: str
    prompt_tokens: int
    full: bool
    search: bool
    objective: str
    compiled: int
    report: str | None
    compare: str | None
    budget: str | None
    calibrate: float | None
    json: bool


def run(loaded: config.Loaded | None, **values: Any) -> int:
    """Prints what was asked for; the exit status."""
    flags = Flags(**values)
    if flags.compare:
        return compare(flags)
    if loaded is None or not flags.topology:
        missing = "--topology NAME" if loaded is not None else "--config FILE[:SIZE]"
        raise config.InputError(f"plan needs {missing}, or --compare A.json B.json.")
    allowed = read(flags.budget, "budget") if flags.budget else None
    try:
        found = ask(loaded, flags)
    except compiling.CompileError as error:
        print(f"bigmodel: the compiler refuses this step: {error}", file=sys.stderr)
        return 1
    if flags.report:
        markup.write(flags.report, plan_page.page(found))
    if flags.json:
        print(json.dumps(found))
    elif flags.search:
        print(plan_screen.ranking(found), end="")
    else:
        print(plan_screen.screen(found), end="")
    breaches = budget.check(found, allowed) if allowed is not None else []
    for breach in breaches:
        print(f"bigmodel: {breach}", file=sys.stderr)
    return 1 if breaches else 0


def ask(loaded: config.Loaded, flags: Flags) -> dict[str, Any]:
    """The plan, with all that its flags want besides."""
    options = dict(task=flags.task, full=flags.full, prompt=flags.prompt_tokens)
    request = make_request(loaded, flags.topology or "", slices=flags.slices, **options)
    decoder = request.loaded.config.model.name == "decoder"
    if flags.search and not decoder:
        raise config.InputError(
            f"--search: layouts are estimated for the family 'decoder', and this model is a "
            f"{request.loaded.config.model.name!r}; plan a layout of it without --search."
        )
    if flags.task in ("prefill", "decode") and not decoder:
        raise config.InputError(
            f"--task={flags.task}: planned for the family 'decoder' alone, and this model is of "
            f"{request.loaded.config.model.name!r}; allowed are train and evaluate."
        )
    if flags.search:
        say = say_progress()
        return search.plan(request, objective=flags.objective, compiled=flags.compiled, say=say)
    check_mesh(request)
    found = compiling.compile_one(request)
    if flags.calibrate:
        chip = request.topology.chip
        if chip is None:
            raise config.InputError(f"--calibrate: {flags.topology} is no chip of the table.")
        value = calibrate.fit(request, found, flags.calibrate)
        path = calibrate.keep(chip, value)
        print(f"{path}: efficiency {value:.3f} for {chip.name}", file=sys.stderr)
    plan = answer.plan(request, found)
    if decoder:
        plan["scaling"] = search.scaling(request, plan)
    if plan["fits"] is False and flags.task == "train" and decoder:
        plan["changes"] = cures.tried(request, plan, say_progress())
    return plan


def compare(flags: Flags) -> int:
    before, after = (read(path, "compare") for path in (flags.compare or "").split("\n"))
    for path, plan in zip((flags.compare or "").split("\n"), (before, after), strict=True):
        if "collectives" not in plan:
            raise config.InputError(f"--compare={path}: is a budget, not a whole plan.")
    diff = budget.compare(before, after)
    print(json.dumps(diff) if flags.json else budget.comparison(diff), end="\n" * flags.json)
    return 0


def read(path: str, flag: str) -> dict[str, Any]:
    """What `--json` printed into a file."""
    try:
        found = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        cure = "bigmodel plan --config ... --topology ... --json > FILE writes one"
        raise config.InputError(f"--{flag}={path}: no such file; {cure}.") from error
    except (ValueError, OSError) as error:
        raise config.InputError(f"--{flag}={path}: is no plan in JSON ({error}).") from error
    if not isinstance(found, dict) or not {"collectives", "moved"} & set(found):
        raise config.InputError(f"--{flag}={path}: is no plan: nothing in it says what moves.")
    return found


def say_progress() -> Any:
    """Tells of long work on stderr: one line that changes on a terminal, plain lines in a pipe."""
    shown = sys.stderr.isatty()

    def say(text: str) -> None:
        end = "\r" if shown else "\n"
        print(f"{text:<78}" if shown else text, end=end, file=sys.stderr, flush=True)

    return say
