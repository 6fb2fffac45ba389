"""A small job and a small snapshot, to be put otherwise."""

from bigmodel import launch
from bigmodel.plan import topology

SNAPSHOT = launch.Snapshot(b"code", "configs/llama.py")


def make(where, slices=1, **fields):
    given = dict(
        name="run",
        workdir="gs://bucket/run",
        config="configs/llama.py:tiny",
        topology=topology.parse(where, slices),
        folder="/shared/launch",
        image="image:1",
        zone="us-east5-a",
    )
    return launch.Job(**given | fields)
