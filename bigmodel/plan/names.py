"""What part of the model an instruction comes from, read off the name that jax gave it."""

import functools
import re

# Wrappers of a name that say how it came about, not where.
NOISE = re.compile(
    r"^(jit\(.*\)|jvp\(.*\)|transpose\(.*\)|vmap\(.*\)|while|body|cond|branch_\d+_fun|scan|pjit"
    r"|closed_call|checkpoint|rematted_computation|shard_map|custom_vjp_call|custom_jvp_call"
    r"|core_call|remat|eval_jaxpr|pairs_\w+|rows_\d+|splash_\w+|_?splash_attention\w*|pallas_call"
    r"|ragged_dot_general|broadcast_in_dim)$"
)
DIFFERENTIATED = re.compile(r"(?:transpose\(|jvp\()+([a-z]\w*)\)+")  # jvp(loss) is of the loss
EQUATION = re.compile(r"->")


@functools.lru_cache(maxsize=50_000)
def layer(op_name: str) -> str:
    """The module's path, such as "layers/attention/query"; "" where the name tells none.

    An instruction of the optimizer is "optimizer", of the loss "loss"; an argument of the step is
    its path in the state, such as "params/embed/table".
    """
    if op_name.startswith(("state.", "batch[", "state[", "params[", "cache[")):
        return argument(op_name)
    whole = op_name.split("/")
    inside = any("run_layers" in part for part in whole)
    path: list[str] = []
    for part in whole[:-1]:  # the last is the operation
        if found := DIFFERENTIATED.fullmatch(part):
            part = found[1]
        if NOISE.match(part) or EQUATION.search(part) or "." in part:
            continue
        if part in ("Decoder", "Block"):
            inside, path = inside or part == "Block", []
            continue
        if not path or path[-1] != part:
            path.append(part)
    names = [part for part in path if re.fullmatch(r"[a-z][a-z0-9_]*", part)]
    if inside:
        return "/".join(["layers", *names[:2]])
    return "/".join(names[:2])


@functools.lru_cache(maxsize=50_000)
def turn(op_name: str) -> str:
    """In which pass it runs: "forward", "recomputed", "backward" or "update"."""
    if "transpose(" in op_name:
        return "recomputed" if "rematted_computation" in op_name else "backward"
    return "update" if "/optimizer/" in op_name else "forward"


def argument(name: str) -> str:
    """ "state.params['embed']['table']" as "params/embed/table"."""
    parts = re.findall(r"\['?([^\]']+)'?\]|\.?([A-Za-z_]\w*)", name)
    path = [a or b for a, b in parts]
    return "/".join(path[1:] if path[:1] == ["state"] else path)
