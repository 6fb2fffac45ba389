r"""BERT4Rec, which tells masked items of a history from both sides, on MovieLens-1M.

    python -m bigmodel train --config configs/bert4rec.py:ml-1m --workdir runs/bert4rec
    python -m bigmodel train --config configs/bert4rec.py:tiny --workdir /tmp/bert4rec  # seconds

Sun et al. 2019 (arXiv:1904.06690), section 4, and the authors' code (its configuration
bert_config_ml-1m_64 and run_ml-1m.sh): two layers of two heads, width 64, rows of 200, dropout 0.2,
a fifth of the items masked, and of one row in eleven the last item alone; batches of 256, Adam at
1e-4 that falls to 0 in 400,000 steps. `ml-1m` reads ratings.dat of MovieLens; users and items of
fewer than five ratings are left out, which leaves 6,040 users and 3,416 items.

Not as published: a row holds a history's last 200 items, or with windows="all" the earlier ones in
rows of their own, where theirs also slides windows by half their length; 100 warm-up steps there
begin at the whole rate of a line that climbs, here at 0. What the model does otherwise stands in
bigmodel/models/recommender.py.

Published (table 2, ML-1m): HR@10 0.6970, NDCG@10 0.4818, among 100 negatives drawn by popularity;
here `sampled_hit_rate_10` and `sampled_ndcg_10` are among 100 drawn uniformly, which is easier, and
`hit_rate_10` and `ndcg_10` among all items.

Not measured here: a whole run of `ml-1m`.
"""

from ml_collections import ConfigDict

import bigmodel

SIZES: dict[str, dict] = {
    "tiny": dict(vocab=1024, width=32, length=16, dropout=0.1, attention_dropout=0.1),
    "ml-1m": dict(vocab=3_418, width=64, length=200, dropout=0.2, attention_dropout=0.2),
}


def get_config(size: str = "ml-1m") -> ConfigDict:
    config = bigmodel.default_config("recommender", objective="next_item", data="interactions")
    config.seed = 0
    config.model.update(
        layers=2,
        heads=2,
        causal=False,
        norm_placement="post",
        norm_epsilon=1e-12,
        feedforward="gelu",
        embed_norm=True,
        projection=True,
        init_std=0.02,
        **SIZES[size],
    )
    config.objective.update(loss="softmax", items=SIZES[size]["vocab"] - 2)  # the mask is no item
    config.data.update(
        source="table:ml-1m/ratings.dat",
        separator="::",
        columns="user item rating time",
        time="time",
        least=5,
        length=SIZES[size]["length"],
        windows="all",
        mask_rate=0.2,
        mask_last=1 / 11,
    )
    config.optimizer.update(name="adamw", b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01, clip=5.0)
    if size == "tiny":
        return tiny(config)

    config.batch, config.steps = 256, 400_000
    config.schedule.update(name="warmup_linear", peak=1e-4, warmup=100)
    config.model.dtype = "float32"
    config.mesh.update(data=-1)
    config.evals = dict(
        validation=dict(split="validation", every=20_000, batches=0),
        test=dict(split="test", every=0, batches=0),
    )
    return config


def tiny(config: ConfigDict) -> ConfigDict:
    """The smallest run of the same form: which modules a file of the library imports."""
    config.steps, config.batch = 150, 32
    config.model.dtype = "float32"
    config.data.update(source="python_stdlib", separator="", columns="user item", time="", least=0)
    config.schedule.update(name="warmup_linear", peak=1e-2, warmup=10)
    config.log.every = 50
    config.evals = dict(validation=dict(split="validation", every=0, batches=0))
    return config
