"""What every view of a plan says alike: its verdict, its parts by name, how far to trust it.

A plan is the dict that `bigmodel plan --json` prints.
"""

import bisect
from collections.abc import Mapping, Sequence
from typing import Any

from bigmodel.report import units

Plan = Mapping[str, Any]

MEMORY = {
    "parameters": "parameters",
    "optimizer": "optimizer state",
    "gradients": "gradients",
    "activations": "activations",
    "other": "other",
}
TIME = {  # all but the hidden collectives, which take no time of their own
    "matrix": "matrix products",
    "attention": "attention",
    "other": "other compute",
    "collectives_exposed": "collectives, exposed",
    "host_exposed": "host transfers",
    "bubble": "pipeline bubble",
}
OBJECTIVES = {  # of a search: its key in a layout, and in words
    "time": ("step_seconds", "the least step time"),
    "cost": ("dollars_per_million_tokens", "the lowest cost of a token"),
    "chips": ("chips", "the fewest chips"),
}
TIE = 0.15  # predictions nearer than this are not told apart
EDGE = 0.08  # of the limit: with less of it free a compiler recomputes and spills by itself
BRIEF_SECONDS = 0.1


def name(plan: Plan) -> str:
    """The config as it is called: "configs/llama.py:70b"."""
    config = plan["config"]
    return config["path"] + (f":{config['argument']}" if config["argument"] else "")


def place(plan: Plan) -> str:
    """Where: "v5p:4x8x8, 2 slices"."""
    slices = plan["slices"]
    return plan["topology"] + (f", {slices} slices" if slices > 1 else "")


def free(plan: Plan) -> float | None:
    """Bytes a device that are left below the limit; negative where the plan is over it."""
    limit = plan["hbm_limit_bytes"]
    return None if limit is None else limit - plan["hbm_bytes"]


def verdict(plan: Plan) -> tuple[str, str]:
    """(mark, sentence); mark: "fits", "over" or "unknown"."""
    left, limit = free(plan), plan["hbm_limit_bytes"]
    if plan["fits"] is None or left is None:
        return "unknown", f"{units.size(plan['hbm_bytes'])} a device; its limit is not known"
    share = f"{units.size(abs(left))} a device ({units.percent(abs(left), limit)})"
    if plan["fits"]:
        return "fits", f"Fits, with {share} to spare"
    return "over", f"Does not fit: {share} too much" if left < 0 else (
        "Does not fit: the compiler found no room"
    )


def mfu(plan: Plan) -> str:
    """The utilisation, or why there is none."""
    if plan["mfu"] is not None:
        return units.percent(plan["mfu"])
    known = plan["roofline"] and plan["roofline"]["peak_flops"]
    return units.UNKNOWN if known else f"refused: unknown chip {plan['device']}"


def parts(
    numbers: Mapping[str, float | None] | None, names: Mapping[str, str]
) -> list[tuple[str, str, float]]:
    """(key, name, number) of those that are known, in the order of `names`."""
    found = ((key, words, (numbers or {}).get(key)) for key, words in names.items())
    return [(key, words, number) for key, words, number in found if number is not None]


def mesh_words(mesh: Mapping[str, int]) -> str:
    """The axes that cut anything: "fsdp 64 × tensor 4"."""
    return " × ".join(f"{axis} {n}" for axis, n in mesh.items() if n > 1) or "one device"


def unit(layout: Mapping[str, Any]) -> str:
    """What a batch is counted in; rates of rows without a length are of examples."""
    return "examples" if layout["length"] is None else "tokens"


def batch_words(layout: Mapping[str, Any]) -> str:
    """Rows, and tokens of each where they have some."""
    if layout["length"] is None:
        return f"batch {units.count(layout['batch'])}"
    return f"batch {units.count(layout['batch'])} × {units.count(layout['length'])} tokens"


def layout_words(layout: Mapping[str, Any]) -> list[str]:
    """The choices of a layout besides its mesh and batch, those at rest left out."""
    rows = len(layout["extra_rules"])
    words = [layout["rules"] + (f" + {units.times(rows, 'row')}" if rows else "")]
    words.append(f"remat {layout['remat']}")
    for key, verb in (("remat_save", "saves"), ("remat_offload", "offloads")):
        if layout[key]:
            words.append(f"{verb} {', '.join(layout[key])}")
    for key in ("accumulate", "microbatches", "repeats"):
        if layout[key] > 1:
            words.append(f"{key} {layout[key]}")
    return words + (["optimizer on the host"] if layout["offload"] else [])


def change_words(change: Mapping[str, Any]) -> str:
    """{"accumulate": 2, "model.remat": "full"} as "accumulate = 2, remat = full"."""

    def words(to: Any) -> str:
        if isinstance(to, Mapping):
            return mesh_words(to)
        return " + ".join(to) if isinstance(to, list | tuple) else str(to)

    told = {key.removeprefix("model."): words(to) for key, to in change.items()}
    return ", ".join(f"{key} = {text}" for key, text in told.items() if text)


def compiled_words(plan: Plan) -> str:
    how = {"schedule": "compiled to the schedule", "full": "compiled to the end"}
    words = how.get(plan["compiled"], "not compiled: analytic")
    spent = plan["compile_seconds"]
    return words if spent is None else f"{words} in {units.seconds(spent)}"


def excess(plan: Plan) -> str:
    """What the program does over what the model asks for: recomputation, all of attention."""
    asked, done = plan["flops"]["causal"], plan["flops"]["compiled_per_device"]
    if not asked or done is None:
        return units.UNKNOWN
    return f"{units.digits(done * plan['devices'] / asked)} times its share of the causal count"


def promise(plan: Plan) -> str:
    """How far the prediction is to be trusted. Nothing of a plan was ever measured."""
    left, layout, step = free(plan), plan["layout"], plan["step_seconds"]
    experts = any("experts" in row["logical"] for row in plan["sharding"].values())
    untried = {
        "a mixture of experts": experts,
        "a pipeline": plan["mesh"]["stage"] > 1,
        "a GPU": plan["topology"].startswith("gpu"),
        f"task {plan['task']}": plan["task"] != "train",
        "a layout that was not compiled": plan["compiled"] == "analytic",
    }
    hard = {
        f"less than {100 * EDGE:.0f} % of HBM free": left is not None
        and left < EDGE * plan["hbm_limit_bytes"],
        "offload to the host": layout["offload"] or layout["remat_offload"] or plan["host_bytes"],
        f"a step under {units.seconds(BRIEF_SECONDS)}": step is not None and step < BRIEF_SECONDS,
    }
    if step is None:
        return "Never measured here; no step time is predicted."
    reasons = [words for words, true in untried.items() if true]
    if reasons:
        return f"Never measured here; no accuracy is promised for {' or '.join(reasons)}."
    reasons = [words for words, true in hard.items() if true]
    if reasons:
        return f"Never measured here; step time within 30 % ({', '.join(reasons)})."
    return "Never measured here; step time within 15 % (dense, more than 8 % of HBM free)."


def size_of(collective: Mapping[str, Any]) -> tuple[float, float]:
    """What to sort by, largest first: seconds where they are known, then bytes of a step."""
    return collective["seconds"] or 0.0, collective["bytes"] * collective["times"]


def ranks(layouts: Sequence[Mapping[str, Any]], objective: str) -> list[int | None]:
    """1 + how many layouts are surely better; None for one that does not fit or has no number.

    Equal ranks are ties: predictions within 15 % of each other's. Chips are counted, not
    predicted, so of fewest chips only those with as many can tie, by their step time.
    """
    key = OBJECTIVES[objective][0]

    def merit(row: Mapping[str, Any]) -> tuple[int, float] | None:
        chips, value = (row["chips"], row["step_seconds"]) if key == "chips" else (0, row[key])
        return (chips, value) if row["fits"] and value is not None else None

    merits = [merit(row) for row in layouts]
    beaten = sorted((chips, (1 + TIE) * value) for chips, value in filter(None, merits))
    return [own and 1 + bisect.bisect_left(beaten, own) for own in merits]


def total(rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """The sum of a column; None where one of its numbers is unknown."""
    numbers = [row[key] for row in rows]
    return None if None in numbers else sum(numbers)


def apart(lists: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Words that all lists have, and what each has besides."""
    common = [word for word in lists[0] if all(word in other for other in lists)] if lists else []
    return common, [[word for word in words if word not in common] for words in lists]
