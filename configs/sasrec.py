r"""SASRec, which tells the next item from a history, on Amazon's video games.

    python -m bigmodel train --config configs/sasrec.py:games --workdir runs/sasrec
    python -m bigmodel train --config configs/sasrec.py:tiny --workdir /tmp/sasrec  # seconds

Kang and McAuley 2018, "Self-Attentive Sequential Recommendation" (arXiv:1808.09781), section 4, and
the authors' code, whose data file `games` reads: a line "user item" for each action, in order of
time. Two layers of one head, rows of 50 items, dropout 0.5, batches of 128 users, Adam at 1e-3 with
b2 0.98, one negative a position, 201 passes. What the model does otherwise stands in
bigmodel/models/recommender.py; a pass here is each user once, where theirs draws users at random.

Published (table III): hit rate@10 0.7410, NDCG@10 0.5360, of the last item among 100 that the user
never had: here `sampled_hit_rate_10` and `sampled_ndcg_10` of the split "test", over all users
where theirs is over 10,000 of them. `hit_rate_10` and `ndcg_10` are among all items.

Not measured here: a whole run of `games`.
"""

from ml_collections import ConfigDict

import bigmodel

SIZES: dict[str, dict] = {
    "tiny": dict(vocab=1024, width=32, length=16, dropout=0.1, attention_dropout=0.1),
    "games": dict(vocab=23_716, width=50, length=50, dropout=0.5, attention_dropout=0.5),
}
USERS = 31_013  # of `games`


def get_config(size: str = "games") -> ConfigDict:
    config = bigmodel.default_config("recommender", objective="next_item", data="interactions")
    config.seed = 0
    fields = SIZES[size]
    config.model.update(
        layers=2,
        heads=2 if size == "tiny" else 1,  # one head is cut over no mesh, and `tiny` is for trying
        hidden=fields["width"],  # eq. 5: both products are D by D
        causal=True,
        norm_placement="pre",
        norm_epsilon=1e-8,
        feedforward="relu",
        qkv_bias=False,
        embed_scale=True,
        **fields,
    )
    config.objective.update(loss="binary", negatives=1)
    config.data.update(source="table:Video.txt", length=fields["length"], negatives=1)
    config.optimizer.update(name="adam", b1=0.9, b2=0.98, clip=0.0)
    config.schedule.update(name="constant", peak=1e-3)
    if size == "tiny":
        return tiny(config)

    config.batch = 128
    config.steps = 201 * USERS // config.batch
    config.model.dtype = "float32"
    config.mesh.update(data=-1)
    config.evals = dict(
        validation=dict(split="validation", every=20 * USERS // config.batch, batches=0),
        test=dict(split="test", every=0, batches=0),
    )
    return config


def tiny(config: ConfigDict) -> ConfigDict:
    """The smallest run of the same form: which module a file of the library imports next."""
    config.steps, config.batch = 150, 32
    config.model.dtype = "float32"
    config.data.update(source="python_stdlib")
    config.schedule.update(name="constant", peak=1e-2)
    config.log.every = 50
    config.evals = dict(validation=dict(split="validation", every=0, batches=0))
    return config
