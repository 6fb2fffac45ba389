r"""The next item of a history of actions, by SASRec.

    python experiments/real_tasks/recommendation.py video-games --data DIR

video-games: Amazon's, as Kang and McAuley 2018 (arXiv:1808.09781) have it: a user's last item is
the test, the one before it validates. The model is theirs (configs/sasrec.py), the recipe shorter:
a softmax of the true item against 64 drawn ones, 2,000 steps of 256 rows of 20 items, longer
histories cut in several. Of the last item among 100 others: hit rate@10 0.7278 (theirs 0.7410),
NDCG@10 0.5437 (theirs 0.5360).

Own actions (a table with names in its first line; docs/data.md, Interactions, has other forms):

    python -m bigmodel train --config experiments/real_tasks/recommendation.py --workdir RUN \
        --config.data.source=table:FILE.csv --config.data.columns= --config.data.user=COLUMN \
        --config.data.item=COLUMN --config.data.time=COLUMN --config.model.vocab=ITEMS+1
"""

import gzip
import pathlib

from ml_collections import ConfigDict

import bigmodel

PLACE = "runs/real_tasks/{}/data"
SASREC = "Kang and McAuley 2018, arXiv:1808.09781, table III"
ITEMS = 23_715  # of video-games


def get_config(task: str = "video-games") -> ConfigDict:
    config = bigmodel.default_config("recommender", objective="next_item", data="interactions")
    config.model.update(
        vocab=ITEMS + 1,  # 0 is padding
        width=50,
        layers=2,
        heads=1,
        hidden=50,
        length=20,
        norm_epsilon=1e-8,
        feedforward="relu",
        qkv_bias=False,
        embed_scale=True,
        dropout=0.3,
        attention_dropout=0.3,
        dtype="float32",
    )
    config.objective.update(loss="sampled", negatives=64)
    config.data.update(source=f"table:{PLACE.format(task)}/actions.txt", length=20, windows="all")
    config.steps, config.batch = 2000, 256
    config.optimizer.update(name="adam", b1=0.9, b2=0.98, clip=0.0)
    config.schedule.update(name="warmup_cosine", peak=4e-3, warmup=200, floor=1e-5)
    config.log.every = 100
    config.evals = dict(
        validation=dict(split="validation", every=500, batches=16),
        test=dict(split="test"),
    )
    return config


def actions(unpacked: pathlib.Path, into: pathlib.Path) -> None:
    (into / "actions.txt").write_bytes(
        gzip.decompress((unpacked / "sasrec_video.txt.gz").read_bytes())
    )


if __name__ == "__main__":
    import task

    TASKS = {
        "video-games": task.Task(
            title="the next item, Amazon's video games",
            figure="test/sampled_hit_rate_10",
            unit="%",
            archives=("sasrec_video.txt.gz",),
            prepare=actions,
            published=(
                task.Published(0.7410, "SASRec; NDCG@10 0.5360; 10,000 of the users", SASREC),
                task.Published(0.478, "the most popular items; NDCG@10 0.280", SASREC),
            ),
            setting="hit rate@10 among 100 random items, all users; width 50, 2 layers, as "
            "published; rows of 20 items and not 50, sampled softmax of 64 and not one negative, "
            "dropout 0.3 and not 0.5, 2,000 steps of 256 rows and not 201 passes",
        ),
    }
    task.main(__file__, TASKS)
