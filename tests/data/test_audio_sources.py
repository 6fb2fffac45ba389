"""Laws of sources of sound: what is in each, its splits, and what is refused by file and row."""

import json
import pathlib
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from bigmodel import config
from bigmodel.data import audio_sources, dtmf, sounds, tfds_source
from tests.data.tones import TEXTS, folder_of, table, tone


def read(source):
    return [(example.text, example.sound()) for example in source.read()]


def goertzel(samples, hertz):
    """How loud a frequency is."""
    turn = np.exp(-2j * np.pi * hertz * np.arange(len(samples)) / dtmf.RATE)
    return abs(samples @ turn) / len(samples)


# ITU-T Q.23, figure 1.
KEYS = {697: "123", 770: "456", 852: "789", 941: "*0#"}
COLUMNS = (1209, 1336, 1477)


def dialled(samples):
    """The digits that a receiver hears: the loudest row and column of each stretch of tone."""
    step = dtmf.RATE // 200
    loud = [np.abs(samples[i : i + step]).mean() for i in range(0, len(samples) - step, step)]
    on = np.array(loud) > 0.4 * np.sort(loud)[-5]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], on, [0]])))
    found, half = "", dtmf.RATE // 80  # 25 ms: shorter hears less well, longer only what is exact
    for start, stop in edges.reshape(-1, 2) * step:
        middle = (start + stop) // 2
        some = samples[middle - half : middle + half]
        row = max(KEYS, key=lambda hertz: goertzel(some, hertz))
        found += KEYS[row][int(np.argmax([goertzel(some, hertz) for hertz in COLUMNS]))]
    return found


def test_a_receiver_of_tones_hears_the_digits_that_were_dialled():
    for number in range(60):
        assert dialled(dtmf.sound_of(number)) == dtmf.digits_of(number), number


def test_dialled_digits_are_the_same_for_a_row_and_other_for_another():
    np.testing.assert_array_equal(dtmf.sound_of(3), dtmf.sound_of(3))
    texts = [dtmf.digits_of(n) for n in range(dtmf.ROWS)]
    assert {len(text) for text in texts} == {2, 3, 4, 5, 6}
    assert len(set(texts)) > 1200
    lengths = {len(dtmf.sound_of(n)) for n in range(50)}
    assert len(lengths) == 50


def test_splits_of_dialled_digits_share_no_number_and_miss_none():
    def digits(split):
        return [example.text for example in audio_sources.find("dtmf", split).read()]

    train, validation, test = map(digits, ("train", "validation", "test"))
    assert sorted(train + validation + test) == sorted(digits("all"))
    assert len(train + validation + test) == dtmf.ROWS
    assert 150 < len(validation) < 250
    assert 150 < len(test) < 250
    assert not set(train) & set(validation) | set(train) & set(test) | set(validation) & set(test)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv"])
def test_every_form_of_manifest_gives_its_sounds_in_order(tmp_path, ending):
    source = audio_sources.find(f"audio:{folder_of(tmp_path, f'rows.{ending}')}", "all")
    found = read(source)
    assert [text for text, _ in found] == TEXTS
    for number, (_, sound) in enumerate(found):
        assert sound.rate == 8000
        np.testing.assert_allclose(sound.samples, tone(number), atol=2**-15)


def test_fields_may_have_other_names(tmp_path):
    manifest = folder_of(tmp_path, "rows.tsv")
    manifest.write_text(manifest.read_text().replace("audio\ttext", "path\tsentence"))
    options = dict(audio_field="path", text_field="sentence")
    assert [t for t, _ in read(audio_sources.find(f"audio:{manifest}", "all", **options))] == TEXTS
    with pytest.raises(config.InputError, match='line 2 has no text in "pat".*mean "path"'):
        audio_sources.find(f"audio:{manifest}", "all", audio_field="pat")


def test_a_folder_is_split_by_the_names_of_its_manifests(tmp_path):
    folder = folder_of(tmp_path, "train.jsonl").parent
    assert [text for text, _ in read(audio_sources.find(f"audio:{folder}", "all"))] == TEXTS
    table(folder / "dev.tsv", TEXTS[:1])
    table(folder / "test.jsonl", TEXTS[1:3])
    expected = {"train": TEXTS, "validation": TEXTS[:1], "test": TEXTS[1:3]}
    for split, texts in expected.items():
        assert [t for t, _ in read(audio_sources.find(f"audio:{folder}", split))] == texts
    every = [text for text, _ in read(audio_sources.find(f"audio:{folder}", "all"))]
    assert sorted(every) == sorted(text for texts in expected.values() for text in texts)
    table(folder / "val.jsonl", TEXTS[:1])
    with pytest.raises(config.InputError, match='2 of its manifests are the split "validation"'):
        audio_sources.find(f"audio:{folder}", "validation")


def test_a_manifest_by_another_name_is_split_by_hash_if_it_is_the_only_one(tmp_path):
    folder = folder_of(tmp_path, "rows.jsonl").parent
    assert audio_sources.find(f"audio:{folder}", "test").hashed == "test"
    table(folder / "more.tsv", TEXTS[:1])
    with pytest.raises(config.InputError, match='0 of .* "train"; it has more.tsv, rows.jsonl'):
        audio_sources.find(f"audio:{folder}", "train")


@pytest.mark.parametrize(
    "line, words",
    [
        ('{"audio": "none.wav", "text": "x"}', "line 4: there is no file"),
        (
            '{"audio": "a.aac", "text": "x"}',
            'line 4: "a.aac" is no file of sound',
        ),
        ('{"audio": "", "text": "x"}', 'line 4: "" is no file of sound'),
        ('{"audio": "0.wav"}', 'line 4 has no text in "text"; it has audio'),
        ('{"audio": "0.wav", "text": 7}', 'line 4 has no text in "text"'),
        ("{", "line 4 is not JSON"),
    ],
)
def test_a_broken_row_is_refused_by_manifest_and_line(tmp_path, line, words):
    manifest = folder_of(tmp_path, "rows.jsonl")
    with manifest.open("a") as file:
        file.write(f"\n{line}\n")
    with pytest.raises(config.InputError) as refused:
        audio_sources.find(f"audio:{manifest}", "all")
    assert f"rows.jsonl: {words}" in str(refused.value)


@pytest.mark.parametrize(
    "source, split, words",
    [
        ("dtmv", "train", 'source "dtmv" holds no sounds; allowed are dtmf.*Did you mean "dtmf"'),
        ("dtmf", "dev", 'split "dev" is unknown'),
        ("audio:nowhere.jsonl", "all", "no such file or folder"),
        ("audio:EMPTY", "train", 'EMPTY": 0 of its manifests are the split "train"; it has none'),
        ("audio:EMPTY/list.txt", "all", "a list of sounds ends in .jsonl, .csv, .tsv"),
        ("audio:EMPTY/none.jsonl", "all", "names no sounds"),
    ],
)
def test_a_source_that_is_not_there_is_named(tmp_path, monkeypatch, source, split, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "EMPTY" / "list.txt").write_text("a.wav\n")
    if source.endswith("none.jsonl"):
        (tmp_path / "EMPTY" / "none.jsonl").write_text("\n")
    with pytest.raises(config.InputError, match=words):
        audio_sources.find(source, split)


def test_a_source_that_changed_is_known_by_another_fingerprint(tmp_path):
    manifest = folder_of(tmp_path, "rows.jsonl")
    before = audio_sources.find(f"audio:{manifest}", "all").fingerprint
    assert audio_sources.find(f"audio:{manifest}", "all").fingerprint == before
    (manifest.parent / "0.wav").write_bytes((manifest.parent / "1.wav").read_bytes())
    assert audio_sources.find(f"audio:{manifest}", "all").fingerprint != before


with tfds.core.registered.skip_registration():

    class TinyVoices(tfds.core.GeneratorBasedBuilder):
        """Stored as librispeech is; the samples of its split "broken" are of more than 16 bits."""

        VERSION = tfds.core.Version("1.0.0")
        url_infos: dict = {}  # noqa: RUF012

        def _info(self):
            features = {
                "speech": tfds.features.Tensor(shape=(None,), dtype=np.int64),
                "text": tfds.features.Text(),
                "speaker_id": tfds.features.Scalar(np.int64),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {name: self._generate_examples(name) for name in ("train", "broken")}

        def _generate_examples(self, name):
            for number, text in enumerate(TEXTS):
                whole = (tone(number) * 2**15).astype(np.int64) * (9 if name == "broken" else 1)
                yield number, {"speech": whole, "text": text, "speaker_id": number}


AUDIO = {
    "pythonClassName": "tensorflow_datasets.core.features.audio_feature.Audio",
    "audio": {
        "shape": {"dimensions": ["-1"]},
        "dtype": "int64",
        "sampleRate": "8000",
        "encoding": "none",
    },
}


@pytest.fixture
def talks(tmp_path, monkeypatch):
    """Written as a tensor and noted as sound: only TensorFlow can note it so itself."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    builder = TinyVoices(data_dir=str(tmp_path / "tfds"))
    tfds_source._prepare(builder, "tiny_voices", sys.stderr)
    noted = pathlib.Path(builder.data_path, "features.json")
    features = json.loads(noted.read_text())
    features["featuresDict"]["features"]["speech"] = AUDIO
    noted.write_text(json.dumps(features))
    return "tfds:tiny_voices"


def test_librispeech_is_known_without_tensorflow(tmp_path):
    tfds_source.hear_without_tensorflow()
    builder = tfds.builder("librispeech", data_dir=str(tmp_path))
    assert builder.info.features["speech"].sample_rate == 16_000
    assert "tensorflow" not in sys.modules
    with pytest.raises(RuntimeError, match="decoded by TensorFlow"):
        tfds.features.Audio(lazy_decode=True, file_format="flac")


def test_a_data_set_of_tfds_gives_its_sounds_and_texts(talks):
    found = read(audio_sources.find(talks, "train"))
    assert sorted(text for text, _ in found) == sorted(TEXTS)
    for text, sound in found:
        assert sound.rate == 8000
        np.testing.assert_allclose(sound.samples, tone(TEXTS.index(text)), atol=2**-15)
    assert len(read(audio_sources.find(talks, "train[:1]"))) == 1
    with pytest.raises(sounds.Fault, match="is no sample of 16 bits"):
        read(audio_sources.find(talks, "broken"))


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(split="test"), 'split "test" is not in the source'),
        (dict(text_field="txt"), 'no text feature "txt".*mean "text"'),
        (dict(audio_field="sp"), "'sp' should be one of its features of sound .speech."),
    ],
)
def test_what_a_data_set_of_tfds_has_not_is_named(talks, options, words):
    with pytest.raises(config.InputError, match=words):
        audio_sources.find(talks, **{"split": "train", **options})


def test_a_json_of_a_manifest_is_of_this_form(tmp_path):
    first = folder_of(tmp_path, "rows.jsonl").read_text().splitlines()[0]
    assert json.loads(first) == {"audio": "0.wav", "text": TEXTS[0]}
