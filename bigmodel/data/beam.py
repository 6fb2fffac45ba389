"""Parts of a source prepared by Apache Beam, where one machine does not suffice.

What prepares a part is what the worker processes run, so that the cache is the same byte for byte.
A worker copies its files to a place that this process reads them from: the cache's own folder,
where the runner's machines share it (DirectRunner, or a common file system), or a bucket.
"""

import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from bigmodel import config
from bigmodel.data import prepare, sources, tokenizers

COUNTS = "{:06}.counts.json"


@dataclasses.dataclass(frozen=True)
class Runner:
    """What runs the parts of a source; `run` is `worker.run` on many machines.

    Attributes:
        name: of Beam's: DirectRunner, DataflowRunner, FlinkRunner, SparkRunner, ...
        options: Beam's flags, as ("--project=mine", "--temp_location=gs://bucket/temp").
        place: a folder that all machines and this one reach, local or a bucket; "": the cache's.
    """

    name: str
    options: tuple[str, ...] = ()
    place: str = ""

    def run(
        self,
        parts: Sequence[sources.Part],
        preparation: prepare.Preparation,
        folder: pathlib.Path,
        done: Callable[[int], None],
    ) -> list[prepare.Counts]:
        """`prepare` of each part into files FOLDER/NUMBER.*; `done(number)` as each is here."""
        try:
            import apache_beam
            from apache_beam.options.pipeline_options import PipelineOptions
        except ImportError as error:
            raise config.InputError(
                "Apache Beam is not installed; pip install apache-beam has it."
            ) from error
        between = epath.Path(self.place) / folder.name if self.place else epath.Path(folder)
        between.mkdir(parents=True, exist_ok=True)
        options = PipelineOptions([*self.options, f"--runner={self.name}"])
        task = Task(preparation.packed(), str(between))
        try:
            made = apache_beam.Pipeline(options=options)
        except ValueError as error:  # it lists the runners that there are
            raise config.InputError(f"--runner={self.name}: {error}") from error
        with made as pipeline:
            numbered = pipeline | apache_beam.Create(list(enumerate(parts)))
            _ = numbered | apache_beam.Reshuffle() | apache_beam.Map(task)  # a part, a machine
        return list(self.fetched(between, folder, len(parts), done))

    def fetched(
        self, between: epath.Path, folder: pathlib.Path, parts: int, done: Callable[[int], None]
    ) -> Iterator[prepare.Counts]:
        """The counts of each part, whose files are in the cache's folder from then on."""
        for number in range(parts):
            yield json.loads((between / COUNTS.format(number)).read_text())
            (between / COUNTS.format(number)).unlink()
            if self.place:
                for path in between.glob(f"{number:06}.*.npy"):
                    path.copy(folder / path.name)
            done(number)
        if self.place:
            between.rmtree()


@dataclasses.dataclass(frozen=True)
class Task:
    """What a machine does with (number, part).

    Attributes:
        settings: what `prepare.Preparation.packed` gave.
        place: where the files of the part go.
    """

    settings: Mapping[str, Any]
    place: str

    def __call__(self, numbered: tuple[int, sources.Part]) -> int:
        number, part = numbered
        preparation = prepare.Preparation.unpacked(self.settings)
        tokenizer = tokenizers.load(preparation.tokenizer)
        with tempfile.TemporaryDirectory() as made:
            prefix = pathlib.Path(made) / f"{number:06}"
            counts = prepare.prepare(sources.read(part), preparation, tokenizer, prefix)
            for path in sorted(pathlib.Path(made).iterdir()):
                epath.Path(path).copy(epath.Path(self.place) / path.name, overwrite=True)
        (epath.Path(self.place) / COUNTS.format(number)).write_text(json.dumps(counts))
        return number
