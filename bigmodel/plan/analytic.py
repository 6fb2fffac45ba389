"""The memory of a train step on each device of a layout, from the config's values alone.

Nothing is traced and no device is asked: a layout takes a fraction of a millisecond. What is live
when was learned from the TPU compiler's own live ranges (experiments/memory_model); a peak is the
largest of three moments: a layer's gradient, the loss, and the update of the parameters.
"""

import math
from typing import NamedTuple

from bigmodel import objectives
from bigmodel.optimizers import matrices
from bigmodel.plan import activations, setups, tensors
from bigmodel.plan.setups import BYTES, Setup


class Memory(NamedTuple):
    """Bytes on each device at the step's peak, by what they are."""

    parameters: float
    optimizer: float
    gradients: float
    activations: float
    other: float
    host: float

    @property
    def hbm(self) -> float:
        return sum(self[:5])


def memory(setup: Setup) -> Memory:
    """Bytes on each device at the peak of a step."""
    own = BYTES[setup.fields["param_dtype"]]
    numbers = sum(setups.on_device(setup, tensor, 1) for tensor in setup.parameters)
    gradients = (own if setup.accumulate == 1 else own + 4) * numbers
    state, kept, here = optimizer_bytes(setup), activations.kept(setup), held(setup)
    early = state if setup.optimizer["offload"] and setup.accumulate == 1 else 0.0
    peak = max(
        # A state on the host comes back as early as the compiler likes: before the layers' turn.
        of_layer(setup, here, kept.device) + early,
        of_loss(setup, here, kept),
        of_update(setup, here),
    )
    tokens = setup.batch / setup.parts("batch") * setup.length
    away = state if setup.optimizer["offload"] else 0.0
    return Memory(
        parameters=own * numbers,
        optimizer=state - away,
        gradients=gradients,
        activations=max(0.0, peak - gradients),
        other=24.0 * tokens + (4 * numbers if setup.ema else 0.0),
        host=kept.host + away,
    )


class Held(NamedTuple):
    """Bytes that are there through a whole pass.

    Attributes:
        stacks: parameters of layers, counted.
        others: those of none.
        copies: of the layers' kernels in the arithmetic's dtype.
        through: what a loop over the parts of a batch has made once for all of them.
        table: a head or an embedding table, counted, its width brought together.
        alone: of `stacks`, what is of a stack of one layer: no loop has its gradient before.
        zeros: of the embedding table's gradient in float32, made before the layers' turn.
    """

    stacks: float
    others: float
    copies: float
    through: float
    table: float
    alone: float
    zeros: float


def held(setup: Setup) -> Held:
    fields = setup.fields
    own, a = BYTES[fields["param_dtype"]], BYTES[fields["dtype"]]
    parts = {t.path: setups.on_device(setup, t, 1) for t in setup.parameters}
    stacks = sum(n for path, n in parts.items() if "layers/" in path)
    table = tensors.Tensor("", (fields["vocab"], fields["width"]), ("vocab", "embed"))
    whole = setups.on_device(setup, table, 1, ("embed",))
    copies, through = (a * stacks if a != own else 0.0), 0.0
    if setup.accumulate > 1:
        through = (1 if fields["tied"] else 2) * a * whole
        through += copies if cut_up(setup) else 0.0
    if activations.once(setup):
        copies = 0.0  # they are among what is kept
    # Seen so: where a turn of the loop is large, the compiler fills them early.
    zeros = 4 * whole if fields["experts"] or len(fields["pattern"]) > 1 else 0.0
    alone = 0.0
    for stack, layers, _ in tensors.stacks(fields):
        if layers * setup.ticks == 1:
            alone += sum(n for path, n in parts.items() if path.startswith(f"{stack}/"))
    return Held(stacks, sum(parts.values()) - stacks, copies, through, whole, alone, zeros)


def cut_up(setup: Setup) -> bool:
    """Whether the loop over layers keeps the parts of stacks that it is given."""
    return len(setup.fields["pattern"]) > 1 or activations.once(setup)


def gradients_of(setup: Setup, numbers: float, *, now: bool = True) -> float:
    """Bytes of gradients, besides the sums that a loop over parts of a batch carries."""
    own = BYTES[setup.fields["param_dtype"]] if now else 0
    return (own + (4 if setup.accumulate > 1 else 0)) * numbers


def of_layer(setup: Setup, here: Held, kept: float) -> float:
    """Bytes while a layer's gradient is computed; the head's is there, cut."""
    work = activations.working(setup)
    gradients = gradients_of(setup, here.stacks - here.alone + here.others)
    total = kept + here.copies + here.through + work + gradients + here.zeros
    if setup.stages > 1:  # a tick's gradients beside their sum, and what moves on or waits
        total += gradients_of(setup, here.stacks) / (1 if setup.accumulate == 1 else 2)
        total += 2 * setup.flights * activations.sizes(setup).stream
    if arriving := activations.arriving(setup):
        total += arriving + BYTES[setup.fields["dtype"]] * here.table
    return total


def of_loss(setup: Setup, here: Held, kept: activations.Kept) -> float:
    """Bytes while the loss is computed: no layer's gradient is there, but what all have kept is."""
    size, a = activations.sizes(setup), BYTES[setup.fields["dtype"]]
    total = kept.device + kept.loose + here.copies + (a * here.stacks if cut_up(setup) else 0.0)
    total += gradients_of(setup, here.stacks, now=False) + gradients_of(setup, here.others)
    # The table for the lookup and the head (if tied, part of one: fitted), whose gradient is in
    # float32; the logits of a chunk;
    # hidden vectors and their gradients, cut in chunks.
    streams = setup.flights * size.stream
    total += 4 * logits(setup)
    if setup.stages > 1:  # the hidden vectors of all microbatches, after the table for the lookup
        return total + max((4 + a) * here.table + 2 * streams, a * here.table + 5 * streams)
    return total + (4 + (1.5 if setup.fields["tied"] else 1.7) * a) * here.table + 5 * streams


def logits(setup: Setup) -> float:
    """Of a chunk of the loss, those that a device has."""
    rows = setup.batch // (setup.parts("batch") * setup.accumulate)
    length, V = setup.length // setup.parts("residual_length"), setup.fields["vocab"]
    chunk = objectives.chunk_length(rows, length, V, objectives.LOGITS)
    chunk *= setup.parts("residual_length") // setup.parts("length")  # the loss has it whole
    return rows * chunk * setup.local(V, "vocab")


def of_update(setup: Setup, here: Held) -> float:
    """Bytes after the last layer's gradient: that of the embedding table is whole, then cut."""
    a = BYTES[setup.fields["dtype"]]
    total = gradients_of(setup, here.stacks + here.others) + here.through
    total += (8 + a) * here.table + 2 * setup.flights * activations.sizes(setup).stream
    if setup.optimizer["name"] == "muon":
        total += max(orthogonal(setup, tensor) for tensor in setup.parameters if is_hidden(tensor))
    return total


def orthogonal(setup: Setup, tensor: tensors.Tensor) -> float:
    """Bytes that Muon takes of a stack of matrices: all layers at once, brought together."""
    layers = setup.local(tensor.shape[0], tensor.axes[0])
    shorter = min(sides(tensor))
    whole = setups.on_device(setup, tensor, 4, ("embed", "expert_embed"))
    return 1.25 * whole + 4.0 * layers * shorter**2


def optimizer_bytes(setup: Setup) -> float:
    """Bytes of what the optimizer keeps."""
    optimizer, name = setup.optimizer, setup.optimizer["name"]
    mu = BYTES[optimizer.get("mu_dtype") or "float32"]
    each = {"adamw": mu + 4, "adam": mu + 4, "lion": mu, "schedule_free_adamw": 8, "muon": mu}
    each |= {"sgd": 4 if optimizer.get("momentum") is None or optimizer["momentum"] else 0}
    each |= {"adafactor": 4 if optimizer.get("momentum") else 0}
    rules = dict(setup.rules) | {
        axis.removeprefix("optimizer/"): cut
        for axis, cut in setup.rules.items()
        if axis.startswith("optimizer/")
    }
    cut = setup._replace(rules=rules)
    of_parameters = sum(
        setups.on_device(cut, tensor, 1) * each.get(name, 8) for tensor in cut.parameters
    )
    if name == "muon":
        rest = (t for t in cut.parameters if not is_hidden(t))
        of_parameters += sum(4 * setups.on_device(cut, tensor, 1) for tensor in rest)
    if name == "adafactor":
        of_parameters += sum(map(factored, cut.parameters))
    return of_parameters


def is_hidden(tensor: tensors.Tensor) -> bool:
    return bool(matrices.stacked(tensor.axes)) and tensor.path.endswith("kernel")


def sides(tensor: tensors.Tensor) -> list[int]:
    """Lengths of the sides of one layer's matrix; one length of what is none."""
    return [math.prod(tensor.shape[dim] for dim in side) for side in matrices.sides(tensor.axes)]


def factored(tensor: tensors.Tensor) -> float:
    """Bytes of a matrix's row and column means, whole on every device."""
    lengths = sides(tensor)
    if len(lengths) < 2:
        return setups.compact(tensor.shape, 4)
    return 4.0 * math.prod(tensor.shape[: matrices.stacked(tensor.axes)]) * sum(lengths)
