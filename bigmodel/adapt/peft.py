"""Adapters as the PEFT library stores them: two matrices for each kernel, by foreign names."""

import itertools
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from bigmodel import config
from bigmodel.adapt import lora

PREFIX, WEIGHT = "base_model.model.", ".weight"


class Form(Protocol):
    """How a kernel is stored there; `convert.rows.Form` is one."""

    @property
    def theirs(self) -> Callable[[np.ndarray], np.ndarray]: ...


class Row(Protocol):
    """A line of a table of names; `convert.rows.Row` is one."""

    @property
    def ours(self) -> str: ...
    @property
    def form(self) -> Form: ...
    @property
    def part(self) -> tuple[int, int]: ...
    @property
    def stacked(self) -> int: ...
    def name(self, place: Sequence[int]) -> str: ...


def write(
    folder: pathlib.Path,
    adapters: Mapping[str, np.ndarray],
    rows: Sequence[Row],
    *,
    alpha: float,
    task: str,
    base: str,
) -> None:
    """adapter_config.json and adapter_model.safetensors.

    Args:
        folder: made if missing.
        adapters: "lora_a" and "lora_b" by path.
        rows: the table of names of the model's kind.
        alpha: of the adapters.
        task: PEFT's name of it, such as "CAUSAL_LM"; "": none.
        base: where the weights lie that they belong to.

    Raises:
        InputError: a kernel is no matrix of its own there.
    """
    from safetensors.numpy import save_file

    found: dict[str, np.ndarray] = {}
    turned = set()
    branches = [path.removesuffix(lora.A) for path in adapters if path.endswith(f"/{lora.A}")]
    rank = {adapters[f"{kernel}{lora.A}"].shape[-1] for kernel in branches}
    paths = [f"{branch}{lora.KERNEL}" for branch in branches]
    for branch, path in zip(branches, paths, strict=True):
        of_path = [row for row in rows if row.ours == path]
        if len(of_path) != 1 or of_path[0].part != (0, 1):
            raise config.InputError(
                f"{path}: is no matrix of its own there, so its adapter has no place in PEFT's "
                "form; export the merged weights."
            )
        a, b = (adapters[f"{branch}{name}"] for name in (lora.A, lora.B))
        for name, as_is, pair in matrices(of_path[0], a, b):
            found |= {
                f"{PREFIX}{name}.lora_{x}{WEIGHT}": m for x, m in zip("AB", pair, strict=True)
            }
            turned.add(as_is)
    if len(turned) != 1:
        raise config.InputError("adapters: some kernels are stored transposed there, some are not.")
    values = {
        "peft_type": "LORA",
        "task_type": task or None,
        "base_model_name_or_path": base,
        "r": rank.pop(),
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": turned.pop(),
        "target_modules": ends([row for row in rows if row.ours in paths], rows),
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(values, indent=2, sort_keys=True) + "\n"
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    save_file(found, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})


def ends(adapted: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    """The shortest ends of modules' names that those with adapters have, and no others."""

    def module(row: Row) -> str:
        return row.name((0,) * row.stacked).removesuffix(WEIGHT)

    known = {module(row) for row in adapted}
    others = {module(row) for row in rows} - known
    found = set()
    for name in known:
        parts = name.split(".")
        tails = [".".join(parts[-n:]) for n in range(1, len(parts) + 1)]
        alone = (t for t in tails if not any(f".{other}".endswith(f".{t}") for other in others))
        found.add(next(alone))
    return sorted(found)


def matrices(
    row: Row, a: np.ndarray, b: np.ndarray
) -> Iterator[tuple[str, bool, tuple[np.ndarray, np.ndarray]]]:
    """Of each of their kernels: its name, whether it is stored as inputs x outputs, A and B.

    A [rank, inputs] and B [outputs, rank], in the order that their inputs and outputs have.
    """
    n = row.stacked
    rank = a.shape[-1]
    inputs, outputs = a.shape[n:-1], b.shape[n + 1 :]
    of_inputs, of_outputs, as_is = order(row.form, inputs, outputs)
    for place in itertools.product(*map(range, a.shape[:n])):
        name = row.name(place).removesuffix(WEIGHT)
        one = np.asarray(a[place], np.float32).reshape(-1, rank)[of_inputs].T
        other = np.asarray(b[place], np.float32).reshape(rank, -1)[:, of_outputs].T
        yield name, as_is, (np.ascontiguousarray(one), np.ascontiguousarray(other))


def order(
    form: Form, inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Which of our inputs and outputs theirs are, told by where a form puts numbered elements."""
    count = int(np.prod(outputs))
    numbers = np.arange(int(np.prod(inputs)) * count, dtype=np.int64).reshape(*inputs, *outputs)
    stored = form.theirs(numbers)
    for as_is, placed in ((False, stored.T), (True, stored)):
        of_inputs, of_outputs = placed[:, 0] // count, placed[0] % count
        if np.array_equal(placed, of_inputs[:, None] * count + of_outputs):
            return of_inputs, of_outputs, as_is
    raise config.InputError("a kernel is stored there as no matrix of inputs and outputs.")
