"""Laws of the optimizers: they descend, spare what must be spared, and see one layer's matrix."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bigmodel import trees
from bigmodel.optimizers import OPTIMIZERS, SCHEDULES, eval_params, make, matrices

L, D, H, C, F, V = 2, 16, 4, 4, 24, 20

SHAPES = {  # path: (logical axes, shape), a decoder's parameters in small
    "embed/table": (("vocab", "embed"), (V, D)),
    "layers/attention/query/kernel": (("layers", "embed", "heads", "head_dim"), (L, D, H, C)),
    "layers/attention/query/bias": (("layers", "heads", "head_dim"), (L, H, C)),
    "layers/attention/out/kernel": (("layers", "heads", "head_dim", "embed"), (L, H, C, D)),
    "layers/attention_norm/scale": (("layers", "embed"), (L, D)),
    "layers/feedforward/up/kernel": (("layers", "embed", "mlp"), (L, D, F)),
    "final_norm/scale": (("embed",), (D,)),
    "head/kernel": (("embed", "vocab"), (D, V)),
}
HIDDEN = [path for path in SHAPES if path.startswith("layers") and path.endswith("kernel")]
DECAYED = {path for path in SHAPES if path.endswith(("kernel", "table"))}
MATRIX = {  # one layer's array as the matrix that it is
    "layers/attention/query/kernel": (D, H * C),
    "layers/attention/query/bias": (H * C,),
    "layers/attention/out/kernel": (H * C, D),
}
SMALL = {"adafactor": {"min_dim_size_to_factor": 8}}  # so that matrices of this size are factored


def nested(flat):
    tree: dict = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        branch = functools.reduce(lambda node, key: node.setdefault(key, {}), parents, tree)
        branch[last] = leaf
    return tree


AXES = nested({path: axes for path, (axes, _) in SHAPES.items()})


def random_params(seed, dtype=np.float32, spread=10.0):
    """Normal draws whose layers are of unlike scale, so that what mixes them up shows."""
    rng = np.random.default_rng(seed)
    flat = {}
    for path, (axes, shape) in SHAPES.items():
        scales = spread ** -np.arange(shape[0]) if axes[0] == "layers" else np.ones(shape[0])
        flat[path] = (rng.normal(size=shape).T * scales).T.astype(dtype)
    return nested(flat)


RATE, DECAY = 0.05, 0.02


def build(name, **fields):
    fields = SMALL.get(name, {}) | fields
    return make(OPTIMIZERS[name], constant(), AXES, **fields)


def constant():
    return SCHEDULES["constant"](10, peak=RATE)


@functools.cache
def compiled(name) -> tuple[Callable, Callable]:
    """(init, update) of a row of the table with decay and clipping: most laws share them."""
    decay = {} if name == "adam" else {"weight_decay": DECAY}
    optimizer = build(name, clip=1e6, **decay)
    return jax.jit(optimizer.init), jax.jit(optimizer.update)


def run(init, update, params, gradients):
    """The updates of a few steps, without moving the parameters."""
    state, found = init(params), []
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        found.append(updates)
    return found


def run_unshared(optimizer, params, gradients):
    return run(jax.jit(optimizer.init), jax.jit(optimizer.update), params, gradients)


def ones_and_zeros():
    params = jax.tree.map(np.ones_like, random_params(0))
    return params, jax.tree.map(np.zeros_like, params)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_descends_on_a_quadratic(name):
    init, update = compiled(name)
    first = params = random_params(0, spread=1.0)
    state = init(params)
    for _ in range(40):  # decay alone would leave 0.96 of it
        gradient = params  # of |params|^2 / 2
        updates, state = update(gradient, state, params)
        params = jax.tree.map(np.add, params, updates)
    last = jax.jit(eval_params)(state, params)
    assert optax.tree.norm(last) < 0.8 * optax.tree.norm(first)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_keeps_its_form(name):
    params = random_params(0)
    init, update = compiled(name)
    traced = jax.eval_shape(init, params)
    _, after = jax.eval_shape(update, params, traced, params)
    assert forms(traced) == forms(init(params)) == forms(after)


def forms(tree):
    return {path: (leaf.shape, leaf.dtype) for path, leaf in trees.flatten(tree).items()}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_large_state_has_the_path_and_the_shape_of_its_parameter(name):
    for path, leaf in trees.flatten(jax.eval_shape(build(name).init, random_params(0))).items():
        own = [shape for key, (_, shape) in SHAPES.items() if path.endswith("/" + key)]
        # Adafactor's averages are lines of a matrix, and what it does not factor is small.
        assert own == [leaf.shape] or leaf.size <= 3 or name == "adafactor", path
        assert own or leaf.size <= 3, path


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_is_a_pure_function(name):
    params, gradient = random_params(0), random_params(1)
    first, again = (run(*compiled(name), params, [gradient, params])[-1] for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "adam"])
def test_decay_shrinks_kernels_and_tables_and_nothing_else(name):
    params, zeros = ones_and_zeros()
    (updates,) = run(*compiled(name), params, [zeros])
    updates = trees.flatten(updates)
    assert {path for path, leaf in updates.items() if np.any(leaf)} == DECAYED
    for path in DECAYED:
        np.testing.assert_allclose(updates[path], -RATE * DECAY, rtol=1e-3)


def test_the_names_that_decay_are_a_choice():
    params, zeros = ones_and_zeros()
    (updates,) = run_unshared(build("sgd", decayed=("kernel",), weight_decay=0.1), params, [zeros])
    assert not np.any(updates["embed"]["table"])
    assert np.all(updates["head"]["kernel"] < 0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_bfloat16_parameters_have_float32_state_and_updates(name):
    params = random_params(0, jnp.bfloat16)
    init, update = compiled(name)
    updates, state = jax.eval_shape(update, params, jax.eval_shape(init, params), params)
    for leaf in jax.tree.leaves((state, updates)):
        assert leaf.dtype in (jnp.float32, jnp.int32)
    for leaf in jax.tree.leaves(jax.eval_shape(eval_params, state, params)):
        assert leaf.dtype == jnp.bfloat16


def unstacked(tree):
    """{path: [one array a layer]}, each the matrix or vector that one layer sees."""
    return {
        path: [layer.reshape(MATRIX.get(path, layer.shape)) for layer in leaf]
        if path.startswith("layers")
        else [leaf]
        for path, leaf in trees.flatten(tree).items()
    }


def worst_difference(stacked, alone):
    """Largest ||a - b|| / ||b|| over the parameters of an unstacked tree."""
    flat = unstacked(stacked)

    def difference(path):
        a, b = (np.stack([np.ravel(x) for x in tree[path]]) for tree in (flat, alone))
        return np.linalg.norm(a - b) / np.linalg.norm(b)

    return max(map(difference, alone))


def test_adafactor_updates_a_stack_as_it_updates_single_layers():
    some = [*MATRIX, "layers/attention_norm/scale", "embed/table"]
    axes, params, *gradients = (
        nested(
            {
                path: trees.flatten(tree, is_leaf=lambda node: isinstance(node, tuple))[path]
                for path in some
            }
        )
        for tree in (AXES, *map(random_params, range(3)))
    )
    plain = functools.partial(optax.adafactor, RATE, min_dim_size_to_factor=8, momentum=0.9)
    optimizer = make(
        OPTIMIZERS["adafactor"],
        constant(),
        axes,
        min_dim_size_to_factor=8,
        momentum=0.9,
        weight_decay=DECAY,
    )
    decayed = {path: path in DECAYED for path in some}
    alone = plain(weight_decay_rate=RATE * DECAY, weight_decay_mask=decayed)
    expected = run_unshared(alone, unstacked(params), list(map(unstacked, gradients)))
    ours = run_unshared(optimizer, params, gradients)
    careless = run_unshared(plain(), params, gradients)
    assert max(map(worst_difference, ours, expected)) < 1e-6
    assert worst_difference(careless[-1], expected[-1]) > 0.1


def test_adafactor_keeps_a_line_and_a_column_of_each_layers_matrix():
    state = trees.flatten(jax.eval_shape(build("adafactor").init, random_params(0)))
    query = [leaf.shape for path, leaf in state.items() if path.endswith("query/kernel")]
    assert sorted(query) == sorted([(L, D), (L, H * C), (L, 1)])


def test_muon_updates_a_stack_as_it_updates_single_layers():
    params, *gradients = map(random_params, range(3))
    alone = optax.contrib.muon(RATE, weight_decay=DECAY, consistent_rms=0.2)
    matrix, *matrix_gradients = (
        {path: unstacked(tree)[path] for path in HIDDEN} for tree in (params, *gradients)
    )
    expected = run_unshared(alone, matrix, matrix_gradients)
    ours = run(*compiled("muon"), params, gradients)
    careless = run_unshared(alone, params, gradients)
    for updates, single in zip(ours, expected, strict=True):
        for path in HIDDEN:
            np.testing.assert_allclose(unstacked(updates)[path], single[path], atol=1e-6)
    assert worst_difference(careless[-1], expected[-1]) > 0.1


def test_muon_leaves_all_but_hidden_matrices_to_adamw():
    params, gradients = random_params(0), [random_params(seed) for seed in (1, 2)]
    ours, adamw = (run(*compiled(name), params, gradients)[-1] for name in ("muon", "adamw"))
    for (path, mine), other in zip(
        trees.flatten(ours).items(), jax.tree.leaves(adamw), strict=True
    ):
        same = np.array_equal(mine, other)
        assert same == (path not in HIDDEN), path


def test_sides_of_a_matrix_by_logical_axes():
    assert matrices.sides(("layers", "embed", "heads", "head_dim")) == [[1], [2, 3]]
    assert matrices.sides(("layers", "heads", "head_dim", "embed")) == [[1, 2], [3]]
    assert matrices.sides(("layers", "experts", "embed", "mlp")) == [[2], [3]]
    assert matrices.sides(("layers", "embed", "experts")) == [[1], [2]]  # a router
    assert matrices.sides(("layers", "head_dim")) == [[1]]
    assert matrices.sides((None, "embed")) == [[0], [1]]


@pytest.mark.parametrize("name", ["muon", "adafactor"])
def test_experts_are_as_separate_as_layers(name):
    axes = {"up": {"kernel": ("layers", "experts", "embed", "mlp")}}
    rng = np.random.default_rng(0)
    params, gradient = ({"up": {"kernel": rng.normal(size=(2, 3, 8, 9))}} for _ in range(2))
    flat_axes = {"up": {"kernel": ("layers", "embed", "mlp")}}
    flat = [jax.tree.map(lambda x: x.reshape(6, 8, 9), tree) for tree in (params, gradient)]
    fields = SMALL.get(name, {})
    (deep,) = run_unshared(make(OPTIMIZERS[name], constant(), axes, **fields), params, [gradient])
    (plain,) = run_unshared(
        make(OPTIMIZERS[name], constant(), flat_axes, **fields), flat[0], [flat[1]]
    )
    np.testing.assert_allclose(deep["up"]["kernel"].reshape(6, 8, 9), plain["up"]["kernel"], 1e-5)


def test_schedule_free_is_evaluated_with_the_average_of_its_iterates():
    params = {"kernel": jnp.zeros(())}
    optimizer = make(
        OPTIMIZERS["schedule_free_adamw"], constant(), {"kernel": ()}, weight_decay=0.0
    )
    state, iterates = optimizer.init(params), []
    assert eval_params(state, params) == params
    for sign in (1, 1, -1, 1):
        updates, state = optimizer.update({"kernel": jnp.array(float(sign))}, state, params)
        params = optax.apply_updates(params, updates)
        iterates.append(float(optax.tree.get(state, "z")["kernel"]))
        average = eval_params(state, params)["kernel"]
        np.testing.assert_allclose(average, np.mean(iterates), rtol=1e-5)
    assert abs(params["kernel"] - average) > 1e-3
