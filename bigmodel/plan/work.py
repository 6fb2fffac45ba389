"""What an instruction of a compiled program does: FLOPs of its products, bytes of main memory."""

import functools
import math
import re

import numpy as np

from bigmodel.plan import gpus, program
from bigmodel.plan.program import Computation, Instruction, Program

FREE = ("bitcast", "reshape", "copy", "convert", "transpose")  # inside a fusion nothing is written
NOTHING = (
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "iota"),
    *("partition-id", "replica-id", "opt-barrier", "domain"),
)
LANES = 128  # of a matrix unit
# Marks that a kernel's name carries: products and pairs of query and key that it computes.
PAIRS = re.compile(r"pairs_(\d+)_(\d+)(_fused)?")
ROWS = re.compile(r"rows_(\d+)")  # of the room for rows of a product those that hold any


class Work:
    """FLOPs and bytes of a program's instructions."""

    def __init__(self, whole: Program):
        self.whole = whole
        self.flops_in = functools.lru_cache(maxsize=None)(self._flops_in)
        self.read = functools.lru_cache(maxsize=None)(self._read)

    def flops(self, one: Instruction) -> float:
        """Of the matrix products in an instruction."""
        if one.op == "convolution":
            return convolution_flops(one)
        if one.op == "dot":
            return dot_flops(one)
        if one.op == "custom-call":
            return ragged(one)[0] or library_flops(one)
        return self.flops_in(one.calls) if one.calls else 0.0

    def slow_flops(self, one: Instruction) -> float:
        """Of them those of float32 factors, which a GPU multiplies at half the speed (TF32)."""
        if one.op == "dot" or "__cublas" in one.rest:
            factors = [program.arrays(one.holder.type_of(o))[0].dtype for o in one.operands[:2]]
            return self.flops(one) if set(factors) == {"f32"} else 0.0
        inner = self.whole.called(one) if one.op == "fusion" else None
        return sum(map(self.slow_flops, inner.values())) if inner else 0.0

    def _flops_in(self, name: str) -> float:
        return sum(self.flops(one) for one in self.whole.computations.get(name, {}).values())

    def bytes(self, one: Instruction) -> float:
        """Read from and written to main memory, in one run."""
        if one.op in NOTHING:
            return 0.0
        holder = one.holder
        if one.op == "dynamic-update-slice":
            return 2.0 * program.size_of(holder.type_of(one.operands[1]), "0")
        written = float(program.size_of(one.type, "0"))
        if one.op in ("slice", "dynamic-slice"):
            return 2 * written
        if one.op == "custom-call" and (moved := ragged(one)[1]):
            return moved
        if one.op != "fusion":
            return written + sum(program.size_of(holder.type_of(o), "0") for o in one.operands)
        return self.written(one) + sum(
            self.read_of_operand(one, place, operand) for place, operand in enumerate(one.operands)
        )

    def written(self, one: Instruction) -> float:
        """By a fusion: what is updated in place costs the update."""
        total = float(program.size_of(one.type, "0"))
        for inner in self.whole.inside(one):
            if inner.op != "dynamic-update-slice" or inner.operands[1] not in inner.holder:
                continue
            whole = program.size_of(inner.type, "0")
            if whole and whole <= total:
                total += program.size_of(inner.holder.type_of(inner.operands[1])) - whole
        return max(total, 0.0)

    def read_of_operand(self, one: Instruction, place: int, operand: str) -> float:
        whole = program.size_of(one.holder.type_of(operand), "0")
        if not whole:
            return 0.0
        part, passed = self.read(one.calls, place)
        return whole if passed else min(whole, part)

    def _read(self, name: str, place: int) -> tuple[float, bool]:
        """Bytes of slices that a computation reads of a parameter, and whether it passes it on.

        What it does otherwise than by slices it reads whole: infinitely many bytes.
        """
        body = self.whole.computations.get(name, Computation(name))
        if place not in body.parameters:
            return 0.0, False
        waiting, total, passed = [body.parameters[place]], 0.0, False
        while waiting:
            made = waiting.pop()
            for user, at in body.users.get(made.name, ()):
                if user.op in ("slice", "dynamic-slice"):
                    total += program.size_of(user.type) if at == 0 else 0
                elif user.op == "gather" and at == 0:
                    total += program.size_of(user.type)
                elif user.op == "dynamic-update-slice" and at == 0:
                    continue
                elif user.op in FREE:
                    passed |= user.root
                    waiting.append(user)
                elif user.op == "fusion":
                    part, through = self.read(user.calls, at)
                    total += part
                    if through:
                        passed |= user.root
                        waiting.append(user)
                elif user.op != "tuple":
                    return math.inf, False
        return total, passed


def dot_flops(one: Instruction) -> float:
    """2 x elements of the result x length of what is summed."""
    left = program.arrays(one.holder.type_of(one.operands[0]))[0].shape
    found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.rest)
    summed = [int(n) for n in (found[1] if found else "").split(",") if n]
    return 2.0 * program.arrays(one.type)[0].size * math.prod(left[dim] for dim in summed)


def convolution_flops(one: Instruction) -> float:
    """Of a convolution, which is how TPU programs write every matrix product.

    2 x batch x output features x input features of the kernel x the pairs of places that meet in
    each spatial dimension: one that is dilated or padded so that each place meets one other is a
    batch dimension in disguise.
    """
    left, right = (
        program.arrays(one.holder.type_of(operand))[0].shape for operand in one.operands[:2]
    )
    result = program.arrays(one.type)[0].shape
    found = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.rest)
    if not found:
        return 0.0
    of_left, of_right, of_result = found.groups()
    total = 2.0 * right[of_right.index("i")]
    total *= result[of_result.index("b")] * result[of_result.index("f")]
    spatial = sorted(letter for letter in of_right if letter.isdigit())
    window = windows(one.rest, len(spatial))
    for dim, letter in enumerate(spatial):
        sizes = (left[of_left.index(letter)], result[of_result.index(letter)])
        total *= meeting(*sizes, *window[dim])
    return total


def windows(rest: str, dims: int) -> list[tuple[int, int, int, int, int]]:
    """(size, stride, padding before, dilation left, dilation right) of each spatial dimension."""
    found = re.search(r"window=\{([^}]*)\}", rest)
    fields = dict(pair.split("=") for pair in found[1].split()) if found else {}

    def each(name: str, default: str) -> list[str]:
        return fields[name].split("x") if name in fields else [default] * dims

    pads = [pad.split("_")[0] for pad in each("pad", "0_0")]
    parts = (each("size", "1"), each("stride", "1"), pads)
    dilations = (each("lhs_dilate", "1"), each("rhs_dilate", "1"))
    return [tuple(map(int, row)) for row in zip(*parts, *dilations, strict=True)]  # type: ignore[misc]


@functools.lru_cache(maxsize=10_000)
def meeting(
    length: int, outputs: int, size: int, stride: int, before: int, dilate: int, spread: int
) -> int:
    """How many pairs of output place and window place fall on a real place of the input."""
    if size == 1 and dilate == 1 and before == 0:
        return outputs
    if outputs * size > 2**24:  # too many to look at: each output meets its share
        return outputs * min(size, length)
    at = np.arange(outputs)[:, None] * stride + np.arange(size) * spread - before
    real = (at >= 0) & (at % dilate == 0) & (at // dilate < length)
    return int(real.sum())


def library_flops(one: Instruction) -> float:
    """Of a call into cuBLAS."""
    if "__cublas" not in one.rest:
        return 0.0
    left, right = (program.arrays(one.holder.type_of(o)) for o in one.operands[:2])
    result = program.arrays(one.type)
    if not left or not right or not result:
        return 0.0
    found = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', one.rest)
    summed = [int(n) for n in re.findall(r"\d+", found[1] if found else "")]
    return 2.0 * result[0].size * math.prod(left[0].shape[dim] for dim in summed)


def ragged(one: Instruction) -> tuple[float, float]:
    """FLOPs and bytes of a product of ragged groups, a kernel of the compiler's; (0, 0) of others.

    [N, D] x [E, D, F] -> [N, F], or for a gradient [N, D] x [N, F] -> [E, D, F], whichever way each
    lies: every row meets one of the E matrices. Where N is room for the worst case, the name says
    how many rows there are on average; the kernel passes over the others.
    """
    if "tpu_custom_call" not in one.rest or "ragged-dot" not in one.name:
        return 0.0, 0.0
    types = [one.type, *map(one.holder.type_of, one.operands)]
    found = [a for text in types for a in program.arrays(text) if a.dtype in ("bf16", "f32")]
    matrices = [array for array in found if len(array.shape) == 3]
    rows = [array for array in found if len(array.shape) == 2]
    if not matrices or not rows:  # it lays out the groups
        return 0.0, 0.0
    room, marked = rows[0].shape[0], ROWS.search(one.op_name)
    if not marked:  # what is recomputed may have lost its name (libtpu 0.0.50); its like have not
        beside = (ROWS.search(other.op_name) for other in one.holder.values())
        marked = next(filter(None, beside), None)
    there = min(room, int(marked[1])) if marked else room
    moved = sum(a.bytes for a in matrices) + sum(a.bytes for a in rows) * there / room
    return 2.0 * there * math.prod(matrices[0].shape[1:]), moved


def attention_flops(one: Instruction) -> tuple[float, float]:
    """Of an attention kernel, from the pairs that it says it computes: counted, and in time.

    (0, 0) for another call. Heads narrower than the LANES of a matrix unit take as long as those
    that fill it: by time they count as wide.

    Forward two products (scores, values) a pair; backward five where one kernel makes all the
    gradients, else four for keys and values and three for queries, which compute the scores anew.
    """
    if (call := gpus.attention(one)) is not None:
        return call.flops, call.flops * max(1.0, LANES / call.width)
    if "tpu_custom_call" not in one.rest or "splash" not in one.op_name:
        return 0.0, 0.0
    found = PAIRS.search(one.op_name)
    arrays = [array for o in one.operands for array in program.arrays(one.holder.type_of(o))]
    heads = [a.shape for a in arrays if a.dtype in ("bf16", "f32") and len(a.shape) >= 3]
    query = next(shape for shape in heads if shape[-1] > 1)
    rows_and_heads, width = math.prod(query[:-2]), query[-1]
    pairs = int(found[1 if "fwd" in one.name else 2]) if found else query[-2] ** 2 // 2
    if "fwd" in one.name:
        products = 2
    elif "dkv" in one.name:
        products = 5 if found and found[3] else 4
    else:
        products = 3
    flops = 2.0 * products * rows_and_heads * pairs * width
    return flops, flops * max(1.0, LANES / width)
