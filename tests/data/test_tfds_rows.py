"""Data sets of TFDS as pairs of texts, images with texts, and interactions."""

import io
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from bigmodel import config
from bigmodel.data import actions, caption_sources, image_text, pair_sources, pairs, tfds_source

with tfds.core.registered.skip_registration():

    class TinyThings(tfds.core.GeneratorBasedBuilder):
        """Two languages, an image, and who took what."""

        VERSION = tfds.core.Version("1.0.0")
        url_infos: dict = {}  # noqa: RUF012

        def _info(self):
            features = {
                "de": tfds.features.Text(),
                "en": tfds.features.Text(),
                "image": tfds.features.Image(shape=(4, 4, 1)),
                "captions": tfds.features.Sequence({"text": tfds.features.Text()}),
                "user_id": tfds.features.Text(),
                "movie_id": tfds.features.Scalar(np.int64),
                "timestamp": tfds.features.Scalar(np.int64),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(12), "validation": self._generate_examples(4)}

        def _generate_examples(self, count):
            for i in range(count):
                yield (
                    i,
                    {
                        "de": f"Bär {i}",
                        "en": f"bear {i}",
                        "image": picture(i),
                        "captions": [{"text": f"a {i}"}, {"text": f"the {i}"}],
                        "user_id": f"u{i % 3}",
                        "movie_id": i % 5,
                        "timestamp": -i,
                    },
                )


@pytest.fixture(scope="module", autouse=True)
def things(tmp_path_factory):
    """TFDS_DATA_DIR with "tiny_things" in it, prepared as ArrayRecord."""
    folder = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(folder))
        tfds_source._prepare(TinyThings(data_dir=str(folder)), "tiny_things", sys.stderr)
        yield


def picture(shade):
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), shade, np.uint8)).save(file, "PNG")
    file.seek(0)
    return file


NAME = "tfds:tiny_things"


def test_two_features_of_text_are_pairs():
    found = pair_sources.find(NAME, "train", fields=("de", "en"))
    read = sorted((pair.source, pair.target) for pair in found.read())
    assert read == sorted((f"Bär {i}", f"bear {i}") for i in range(12))
    how = dict(source_field="de", target_field="en", source_length=16, length=16)
    assert len(pairs.open_rows(NAME, split="validation", **how)) == 4
    other = pair_sources.find(NAME, "validation", fields=("de", "en"))
    assert other.fingerprint != found.fingerprint


def test_an_image_and_its_captions_are_rows():
    found = list(caption_sources.find(NAME, "train").read())
    assert sorted(example.texts for example in found)[0] == ("a 0", "the 0")
    rows = image_text.open_rows(NAME, split="validation", size=4, channels=1, text_length=8)
    batch = rows.take(np.arange(4))
    assert sorted(batch["images"][:, 0, 0, 0]) == pytest.approx(
        [(i / 255 - 0.5) / 0.5 for i in range(4)]
    )


def test_who_took_what_is_read_in_order_of_time():
    how = actions.Reading(user="user_id", item="movie_id", time="timestamp")
    found = actions.open_actions(NAME, how)
    assert (found.users, found.vocabulary, len(found.items)) == (3, 5, 16)
    fingerprint, _, read = actions.find(NAME, how)
    assert sorted(time for *_, time in read()) == sorted(
        float(-i) for count in (12, 4) for i in range(count)
    )
    assert fingerprint.startswith("tfds ")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pair_sources.find(NAME, "train", fields=("de", "fr")), 'no feature "fr"; it has'),
        (lambda: pair_sources.find(NAME, "tset", fields=("de", "en")), 'split "tset" is not in'),
        (
            lambda: list(actions.find(NAME, actions.Reading())[2]()),
            'no feature "user"; it has captions, de',
        ),
        (lambda: pair_sources.find("tfds:tiny_thing", "train", fields=("de", "en")), "knows no"),
    ],
)
def test_what_a_data_set_has_not_is_named(call, words):
    with pytest.raises(config.InputError) as error:
        call()
    assert words in str(error.value)
