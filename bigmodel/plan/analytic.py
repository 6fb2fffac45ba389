"""The memory of a train step on each device of a layout, from the config's values alone.

Nothing is traced and no device is asked: a layout takes a fraction of a millisecond. What is live
when was learned from the TPU compiler's own live ranges (experiments/memory_model); a peak is the
largest of three moments: a layer's gradient, the loss, and the update of the parameters.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bigmodel.costs import decoder as counts
from bigmodel.plan import tensors

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
LANES, ROWS = 128, 8  # of a TPU's tile: the two minor dimensions are padded to it


class Setup(NamedTuple):
    """All of a config and a mesh that memory and time depend on.

    Attributes:
        fields: the model's.
        parameters: its arrays.
        mesh: size of each mesh axis.
        rules: logical axis -> mesh axes.
        batch: sequences over the whole mesh.
        length: tokens of each.
        accumulate: parts of a batch that go one after another.
        microbatches: of a pipeline; 0: one for each stage.
        repeats: runs of layers that each stage has.
        optimizer: the section of the config.
        ema: whether an average of the parameters is kept.
        slices: parts of the mesh joined by DCN.
    """

    fields: Mapping[str, Any]
    parameters: tuple[tensors.Tensor, ...]
    mesh: Mapping[str, int]
    rules: Mapping[str, tuple[str, ...]]
    batch: int
    length: int
    accumulate: int
    microbatches: int
    repeats: int
    optimizer: Mapping[str, Any]
    ema: bool
    slices: int

    def parts(self, *axes: str) -> int:
        """Into how many parts the mesh cuts what lies along these logical axes."""
        cut = (mesh_axis for axis in axes for mesh_axis in self.rules[axis])
        return math.prod(self.mesh[mesh_axis] for mesh_axis in cut)

    def local(self, size: int, axis: str) -> int:
        return -(-size // self.parts(axis))

    @property
    def stages(self) -> int:
        return self.mesh["stage"]

    @property
    def ticks(self) -> int:
        """Times that each stage runs a microbatch, or has none to run."""
        if self.stages == 1:
            return 1
        return (self.microbatches or self.stages) * self.repeats + self.stages - 1

    @property
    def rows(self) -> int:
        """Sequences that a device has at one time."""
        at_a_time = self.accumulate * ((self.microbatches or self.stages) if self.stages > 1 else 1)
        return max(1, self.batch // (self.parts("batch") * at_a_time))


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


@functools.lru_cache(maxsize=1 << 16)
def compact(shape: tuple[int, ...], itemsize: int) -> float:
    """Bytes of an array as a TPU keeps it: tiles pad the two dimensions that pad least."""
    shape = (1, 1, *shape)
    size = math.prod(shape)
    best = min(
        tiled(shape[i], shape[j]) * (size // max(1, shape[i] * shape[j]))
        for i in range(len(shape))
        for j in range(len(shape))
        if i != j
    )
    return float(best * itemsize)


def tiled(rows: int, lanes: int) -> int:
    tile = min(ROWS, 1 << (rows - 1).bit_length())
    return -(-rows // tile) * tile * -(-lanes // LANES) * LANES


def on_device(setup: Setup, tensor: tensors.Tensor, itemsize: int, whole: Sequence[str] = ()):
    """Bytes of a parameter's part on a device; `whole`: logical axes that are brought together."""
    shape = tuple(
        n if axis in whole else setup.local(n, axis)
        for n, axis in zip(tensor.shape, tensor.axes, strict=True)
    )
    return compact(shape, itemsize)


class Sizes(NamedTuple):
    """Bytes of one layer's activations on a device, in the arithmetic's dtype, and what else.

    Attributes:
        stream: x [B, T, D] as it lies between the layers.
        gathered: the same as it goes into products.
        hidden: [B, T, F] of a dense feed-forward layer, or of the shared experts.
        query: [B, T, H, C].
        value: the same as attention gives it, where it is narrower (latent attention).
        key: [B, T, K, C]; key and value are of one size.
        scores: float32 [B, H, T], what attention keeps of its normalisation.
        latents: of latent attention [B, T, ranks].
        slots: [rows, D] of what goes through experts.
        slots_hidden: [rows, F] of the same.
        chosen: [B, T, k, D], what came out of experts.
        kernels: of one layer, brought together as for a product.
        experts: of those the experts'.
        itemsize: bytes of a number.
    """

    stream: float
    gathered: float
    hidden: float
    query: float
    value: float
    key: float
    scores: float
    latents: float
    slots: float
    slots_hidden: float
    chosen: float
    kernels: float
    experts: float
    itemsize: int


def sizes(setup: Setup, stack: str = "layers") -> Sizes:
    fields, rows = setup.fields, setup.rows
    _, D, F, H, K, C = counts.letters(fields)
    a = BYTES[fields["dtype"]]
    wide = -(-C // LANES) * LANES  # heads are the minor dimension
    turned = -(-(C + fields["rope_dim"]) // LANES) * LANES
    tokens = rows * setup.local(setup.length, "length")
    stream = rows * setup.local(setup.length, "residual_length") * setup.local(D, "act_embed")
    heads, kv_heads = setup.local(H, "act_heads"), setup.local(K, "act_kv_heads")
    sparse = stack == "layers" and bool(fields["experts"])
    slots = expert_rows(setup, tokens) if sparse else 0
    E, k = fields["experts"], fields["experts_per_token"]
    F_expert = tensors.expert_hidden(fields) if E else 0
    hidden = fields["shared_experts"] * F_expert if sparse else F
    kernels = gathered_kernels(setup, stack)
    latents = fields["query_rank"] + fields["kv_rank"] + fields["rope_dim"]
    return Sizes(
        stream=a * stream,
        gathered=a * tokens * D,
        hidden=a * tokens * setup.local(hidden, "act_mlp"),
        query=a * tokens * heads * turned,
        value=a * tokens * heads * wide,
        key=a * tokens * (heads * turned if fields["kv_rank"] else kv_heads * wide),
        scores=4.0 * tokens * heads,
        latents=a * tokens * latents,
        slots=a * slots * D,
        slots_hidden=a * slots * setup.local(F_expert, "mlp"),
        chosen=a * tokens * k * D if sparse else 0.0,
        kernels=sum(kernels),
        experts=kernels[1],
        itemsize=a,
    )


def gathered_kernels(setup: Setup, stack: str) -> tuple[float, float]:
    """Bytes of a layer's kernels as products take them: dense ones, and the experts'."""
    a, found = BYTES[setup.fields["dtype"]], [0.0, 0.0]
    for tensor in setup.parameters:
        if tensor.path.startswith(f"{stack}/") and tensor.path.endswith("kernel"):
            layer = tensors.Tensor(tensor.path, tensor.shape[1:], tensor.axes[1:])
            size = on_device(setup, layer, a, ("embed", "expert_embed"))
            found["experts" in tensor.axes] += size
    return found[0], found[1]


def expert_rows(setup: Setup, tokens: int) -> float:
    """Rows that go through a device's experts, or that it has room for."""
    fields = setup.fields
    E, k, n = fields["experts"], fields["experts_per_token"], setup.parts("experts")
    if fields["expert_capacity"]:
        length = setup.local(setup.length, "length")
        room = min(length, math.ceil(fields["expert_capacity"] * length * k / E))
        return E * room * tokens / length
    # Without a limit there is room for all tokens of all devices that share the experts.
    return tokens * k if n == 1 else n * tokens * min(k, E // n)


def saved(setup: Setup, stack: str = "layers") -> tuple[float, float]:
    """Bytes that one layer keeps for its gradient: on the device, and in the host's memory."""
    fields, size = setup.fields, sizes(setup, stack)
    gated, sparse = fields["feedforward"] in counts.GATED, size.slots > 0
    wide = size.slots_hidden + size.hidden if sparse else size.hidden
    named = {
        "input": size.stream,
        "residual": size.stream,
        "query": size.query,
        "key": size.key,
        "value": size.key,
        "key_value": 2 * size.value,
        "attention": size.value + size.scores,
        "out": size.stream,
        "gate": wide if gated else 0.0,
        "up": wide,
        "down": 0.0 if sparse else size.stream,
    }
    if fields["kv_rank"]:
        named |= {"key": 0.0, "value": 0.0}
    else:
        named |= {"key_value": 0.0}
    remat = fields["remat"]
    if setup.stages > 1 or remat in ("none", "attention"):
        return everything(setup, size, gated), 0.0
    if remat == "full":
        return size.stream, 0.0
    if remat == "dots":
        names = ["input", "query", "key", "value", "out"]
        kept = sum(named[name] for name in names) + size.latents
        kept += 0.0 if sparse else (2 if gated else 1) * size.hidden
        kept += (2 if gated else 1) * size.hidden if sparse and fields["shared_experts"] else 0.0
        kept += size.stream if fields["norm_placement"] == "both" else 0.0
        return kept + named["key_value"], 0.0
    offload = set(fields["remat_offload"])
    save = set(fields["remat_save"]) - offload
    save |= set() if "input" in offload else {"input"}
    return sum(named[name] for name in save), sum(named[name] for name in offload)


def everything(setup: Setup, size: Sizes, gated: bool) -> float:
    """Bytes that a layer keeps where nothing is computed again.

    Kernels are kept as products took them: gathered. Norms keep three float32 arrays each.
    """
    fields = setup.fields
    wide = 4.0 / size.itemsize
    norms = 4 if fields["norm_placement"] == "both" else 2
    kept = 3 * norms * wide * size.stream + 2 * size.gathered
    kept += (1 if fields["kv_rank"] else 0) * 4 * wide * size.latents
    kept += size.query + 2 * size.value + 2 * size.key + size.scores
    if fields["qk_norm"] != "none":
        kept += 3 * wide * (size.query + size.key)
    kept += (6 if gated else 4) * (size.hidden + size.slots_hidden)
    kept += size.slots + wide * size.chosen
    return kept + size.kernels - size.experts


def unlooped(setup: Setup) -> float:
    """Bytes that a layer outside of a loop keeps: the compiler merges what would be recomputed."""
    size = sizes(setup)
    return 3 * size.hidden + 4 * size.stream + 2 * size.query + 2 * size.key


def working(setup: Setup) -> float:
    """Bytes that the gradient of one layer takes while it is computed."""
    fields, size = setup.fields, sizes(setup)
    gated, wide = fields["feedforward"] in counts.GATED, 4.0 / size.itemsize
    period = len(fields["pattern"])
    heads = 3 * size.query + 3 * size.key
    streams = 2 * size.stream + (2 if size.stream == size.gathered else 4) * size.gathered
    forward = size.scores * LANES  # the kernel gives one number in each lane
    dense = (4 if gated else 3) * size.hidden
    if period > 1:
        dense *= 1.25
        streams += 2 * period * size.stream
        heads += (period if fields["qk_norm"] != "none" else 1) * wide * (size.query + size.key)
    sparse = 0.0
    if size.slots:
        sparse = size.chosen + wide * size.gathered
        if fields["expert_capacity"]:
            sparse += 3 * size.slots + 3 * size.slots_hidden + 3 / 3 * size.experts
        else:
            a = size.experts + 3 * size.slots_hidden + 3 * size.slots
            sparse += max(a, 6 * size.slots + size.experts)
    of_feedforward = dense + sparse + heads + streams + 2 / 3 * (size.kernels - size.experts)
    of_attention = 4 * size.query + 2 * size.value + 4 * size.key + streams + forward
    of_feedforward += forward if period == 1 else forward / 2
    return max(of_feedforward, of_attention)


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
    of_parameters = sum(on_device(cut, tensor, 1) * each.get(name, 8) for tensor in cut.parameters)
    if name == "muon":
        rest = (t for t in cut.parameters if not is_hidden(t))
        of_parameters += sum(4 * on_device(cut, tensor, 1) for tensor in rest)
    if name == "adafactor":
        of_parameters += sum(map(factored, cut.parameters))
    return of_parameters


def is_hidden(tensor: tensors.Tensor) -> bool:
    return "layers/" in tensor.path and tensor.path.endswith("kernel")


def factored(tensor: tensors.Tensor) -> float:
    """Bytes of a matrix's row and column means, whole on every device."""
    stacked = sum(axis in ("layers", "dense_layers", "experts") for axis in tensor.axes)
    matrix = tensor.shape[stacked:]
    if len(matrix) < 2:
        return compact(tensor.shape, 4)
    return 4.0 * math.prod(tensor.shape[:stacked]) * (matrix[0] + math.prod(matrix[1:]))


def memory(setup: Setup) -> Memory:
    """Bytes on each device at the peak of a step."""
    fields = setup.fields
    own, a = BYTES[fields["param_dtype"]], BYTES[fields["dtype"]]
    parts = {t.path: on_device(setup, t, 1) for t in setup.parameters}
    stacks = sum(n for path, n in parts.items() if "layers/" in path)
    everything_ = sum(parts.values())
    gradients = own * everything_ if setup.accumulate == 1 else (own + 4) * everything_
    table = tensors.Tensor("", (fields["vocab"], fields["width"]), ("vocab", "embed"))
    head = on_device(setup, table, 1, ("embed",))
    tables = 1 if fields["tied"] else 2
    # Kernels in the arithmetic's dtype: kept by the loop over layers, and once more by one over
    # the parts of a batch.
    copies = a * stacks if a != own else 0.0
    hoisted = tables * a * head + copies if setup.accumulate > 1 else 0.0
    if setup.stages > 1 or fields["remat"] in ("none", "attention"):
        copies = 0.0  # they are among what is kept

    kept, host, loose = 0.0, 0.0, 0.0
    for stack, layers, _ in tensors.stacks(fields):
        device, away = saved(setup, stack)
        here = setup.local(layers, stack) * (setup.ticks if stack == "layers" else 1)
        here = 0 if here == 1 else here  # no loop: it is what the layer works with
        kept, host = kept + here * device, host + here * away
        if stack == "layers" and setup.stages > 1:
            kept += setup.local(layers, stack) / setup.repeats * device
        if stack == "layers" and (period := len(fields["pattern"])) > 1:
            kept += period * device
            # Layers that no whole pattern holds are in no loop: nothing of them is computed again.
            loose = layers % period * unlooped(setup)
    size = sizes(setup)
    work = working(setup)
    # A layer's gradient.
    backward = kept + copies + work + gradients + 4 * head + hoisted
    # The loss: the gradients of the layers are not there yet.
    loss = kept + copies + a * stacks + (gradients - own * stacks) + (4 + 2 * a) * head
    loss += (
        loose + 5 * size.stream + 4 * setup.rows
    )  # hidden vectors and their gradients, cut in chunks
    # After the layers: the table's gradient.
    update = gradients + (4 + 4 + a) * head + hoisted + 2 * size.stream
    if setup.optimizer["name"] == "muon":  # whole matrices of all layers at once, and transposed
        update += 6.0 * max(math.prod(t.shape) for t in setup.parameters if is_hidden(t))
    activations = max(backward, loss, update) - gradients

    tokens = setup.batch / setup.parts("batch") * setup.length
    state = optimizer_bytes(setup)
    if setup.fields["remat_offload"] and setup.fields["remat"] == "names":
        activations += 2 * size.gathered + 2 * a * head + 0.15 * work
    host_state = state if setup.optimizer["offload"] else 0.0
    return Memory(
        parameters=own * everything_,
        optimizer=state - host_state,
        gradients=gradients,
        activations=activations,
        other=24.0 * tokens + (4 * everything_ if setup.ema else 0.0),
        host=host + host_state,
    )


def setup(values: Any, mesh: Mapping[str, int], rules: Mapping[str, Any]) -> Setup:
    """What of a resolved config counts here, on a mesh of these sizes.

    Args:
        values: `recipe.resolve`'s config.
        mesh: size of each axis.
        rules: logical axis -> mesh axes, as `sharding.rules.table` gives them.
    """
    from bigmodel.sharding import rules as tables

    fields = values.model.to_dict()
    return Setup(
        fields=fields,
        parameters=_parameters(tuple(sorted((k, v) for k, v in fields.items() if k in SHAPE))),
        mesh=mesh,
        rules={axis: tables.as_tuple(cut) for axis, cut in dict(rules).items()},
        batch=values.batch,
        length=values.data.length,
        accumulate=values.accumulate,
        microbatches=values.pipeline.microbatches,
        repeats=values.pipeline.repeats,
        optimizer=values.optimizer.to_dict(),
        ema=bool(values.ema),
        slices=values.mesh_slices,
    )


SHAPE = frozenset(
    [
        "vocab",
        "width",
        "layers",
        "heads",
        "kv_heads",
        "head_dim",
        "kv_rank",
        "query_rank",
        "rope_dim",
        "hidden",
        "length",
        "norm",
        "norm_bias",
        "norm_placement",
        "qk_norm",
        "position",
        "feedforward",
        "experts",
        "expert_hidden",
        "shared_experts",
        "dense_layers",
        "router_balance",
        "bias",
        "qkv_bias",
        "tied",
    ]
)


@functools.cache
def _parameters(fields: tuple) -> tuple[tensors.Tensor, ...]:
    return tensors.of_decoder(dict(fields))
