"""Bytes of a layer's activations on a device: what it keeps for its gradient, what that takes.

Counted by what the TPU compiler was seen to hold (experiments/memory_model), layer by layer.
"""

import math
from typing import NamedTuple

from bigmodel.costs import decoder as counts
from bigmodel.plan import setups, tensors
from bigmodel.plan.setups import Setup


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
    a = setups.BYTES[fields["dtype"]]
    wide = -(-C // setups.LANES) * setups.LANES  # heads are the minor dimension
    turned = -(-(C + fields["rope_dim"]) // setups.LANES) * setups.LANES
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
    a, found = setups.BYTES[setup.fields["dtype"]], [0.0, 0.0]
    for tensor in setup.parameters:
        if tensor.path.startswith(f"{stack}/") and tensor.path.endswith("kernel"):
            layer = tensors.Tensor(tensor.path, tensor.shape[1:], tensor.axes[1:])
            size = setups.on_device(setup, layer, a, ("embed", "expert_embed"))
            found["experts" in tensor.axes] += size
    return found[0], found[1]


def expert_rows(setup: Setup, tokens: int) -> float:
    """Rows that go through a device's experts, or that it has room for."""
    fields = setup.fields
    E, k, n = fields["experts"], fields["experts_per_token"], setup.parts("experts")
    if fields["expert_capacity"]:
        room = math.ceil(fields["expert_capacity"] * setup.length * k / E)  # of a whole row
        return E * min(room, setup.local(setup.length, "length")) * setup.rows
    # Without a limit there is room for all tokens of all devices that share the experts.
    return tokens * k if n == 1 else n * tokens * min(k, E // n)


class Kept(NamedTuple):
    """Bytes that all layers keep until their gradient.

    Attributes:
        device: on the device.
        host: in the host's memory.
        loose: of layers that no loop runs, until theirs is done, which is first.
    """

    device: float
    host: float
    loose: float


def kept(setup: Setup) -> Kept:
    device, host, loose = 0.0, 0.0, 0.0
    for stack, layers, _ in tensors.stacks(setup.fields):
        on_device, away = saved(setup, stack)
        times = setup.local(layers, stack) * (setup.ticks if stack == "layers" else 1)
        if times == 1:
            continue  # no loop: it is what the layer works with
        if setup.stages > 1:  # stacks of all ticks go at once, there twice: nothing is won
            on_device, away, loose = on_device + away, 0.0, times * away
        device, host = device + times * on_device, host + times * away
        if stack == "layers":
            # Of one tick, or one pattern of layers, everything is taken out of its stack at once.
            period = len(setup.fields["pattern"])
            device += layers / setup.stages / setup.repeats * on_device if setup.stages > 1 else 0.0
            device += period / 2 * on_device if period > 1 else 0.0
            loose += 0.8 * (layers % period) * unlooped(setup)
    return Kept(device, host, loose)


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
    if once(setup):
        return everything(setup, size), 0.0
    if remat == "full":
        return size.stream, 0.0
    if remat == "dots" and setup.stages > 1:  # there every product has a batch dimension
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


def everything(setup: Setup, size: Sizes) -> float:
    """Bytes that a layer keeps where nothing is computed again.

    Kernels are kept as products took them: gathered. Norms keep three float32 arrays each.
    """
    fields = setup.fields
    wide = 4.0 / size.itemsize
    norms = 4 if fields["norm_placement"] == "both" else 2
    kept = 3 * norms * wide * size.stream + 2 * size.stream
    kept += (1 if fields["kv_rank"] else 0) * 4 * wide * size.latents
    kept += size.query + 2 * size.value + 2 * size.key + size.scores
    if fields["qk_norm"] != "none":
        kept += 3 * wide * (size.query + size.key)
    kept += 6 * (size.hidden + size.slots_hidden)
    kept += size.slots + wide * size.chosen
    return kept + size.kernels - size.experts


def once(setup: Setup) -> bool:
    """Whether a layer keeps all that its gradient needs, but what is inside of attention."""
    return setup.fields["remat"] in ("none", "attention")


def unlooped(setup: Setup) -> float:
    """Bytes that a layer outside of a loop keeps: the compiler merges what would be recomputed."""
    size = sizes(setup)
    streams = 4 * size.stream + (2 * size.gathered if size.gathered > size.stream else 0)
    return 3 * size.hidden + streams + 2 * size.query + 2 * size.key


def working(setup: Setup) -> float:
    """Bytes that the gradient of one layer takes while it is computed.

    Of a feed-forward layer with its inputs there are four arrays [B, T, F] (two where it has no
    gate), and what attention has made waits; or attention's own gradient takes more.
    """
    fields, size = setup.fields, sizes(setup)
    wide, period = 4.0 / size.itemsize, len(fields["pattern"])
    lanes = size.scores * setups.LANES  # the kernel gives one number in each lane
    streams = 3 * size.stream
    if size.gathered > size.stream:
        streams = 2 * size.stream + (3.5 if period == 1 else 3) * size.gathered
    heads = 3.5 * (size.query + size.key)
    if fields["kv_rank"]:
        heads = 2 * size.query + 2 * size.value
    dense = (4 if fields["feedforward"] in counts.GATED else 2) * size.hidden
    dense *= HIDDEN_COPIED.get(setup.kind, 1.0)
    waiting = lanes
    if period > 1:  # layers of a pattern are in one body of the loop, and overlap
        dense, waiting = 1.1 * dense, lanes / 2
        streams += period * size.stream
        heads += (period if fields["qk_norm"] != "none" else 1) * wide * (size.query + size.key)
    kernels = (size.kernels - size.experts) / 2
    of_feedforward = dense + sparse(setup, size) + heads + streams + kernels + waiting
    of_attention = 4 * size.query + 2 * size.value + 4 * size.key + streams + lanes
    return LOST * max(of_feedforward, of_attention)


# Of chips, by what their compilers were seen to hold.
RAGGED_IN_FLOAT32 = ("v4",)  # what comes out of ragged products
HIDDEN_COPIED = {"tpu7x": 1.4}  # the hidden layer's gradient once more, transposed
LOST = 1.05  # what a heap of so many sizes loses between them


def sparse(setup: Setup, size: Sizes) -> float:
    """Bytes that the gradient of a layer's experts takes besides."""
    if not size.slots:
        return 0.0
    wide = 4.0 / size.itemsize
    result = wide * size.gathered
    if setup.fields["expert_capacity"]:
        return result + 2 * size.slots + 3 * size.slots_hidden + size.experts
    rows, kernels = max(4 * size.slots + 3 * size.slots_hidden, 5 * size.slots), size.experts
    if setup.kind in RAGGED_IN_FLOAT32:
        rows = max(4 * size.slots + 5 * size.slots_hidden, 7 * size.slots)
        kernels *= wide
    return result + rows + kernels


def arriving(setup: Setup) -> float:
    """Bytes that come from the host while a layer's gradient is computed, and what they disturb."""
    if setup.fields["remat"] != "names" or not setup.fields["remat_offload"]:
        return 0.0
    size, period = sizes(setup), len(setup.fields["pattern"])
    overlapping = 3 * (size.hidden + period * size.stream) if period > 1 else 0.0
    return size.gathered + (0.15 * working(setup) if period > 1 else 0.0) + 1.15 * overlapping
