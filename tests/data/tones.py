"""Sounds for tests: tones of known pitch in small files, and manifests that name them."""

import json

import numpy as np

TEXTS = ["one", "ein Bär", "zwei"]
RATE = 8000


def tone(number):
    """float32 [n], another length and pitch for each number."""
    n = 1600 + 320 * number
    sine = np.sin(2 * np.pi * 300 * (number + 1) * np.arange(n) / RATE)
    faint = 1e-3 * np.random.default_rng(number).normal(size=n)
    return np.round((0.5 * sine + faint) * 2**15).astype(np.float32) / 2**15


def write(path, samples, rate=RATE):
    import soundfile

    soundfile.write(path, samples, rate, subtype="PCM_16")


def table(manifest, texts, ending=".wav"):
    """A manifest of the sounds of these texts."""
    rows = [(f"{TEXTS.index(text)}{ending}", text) for text in texts]
    if manifest.suffix == ".jsonl":
        lines = [json.dumps({"audio": path, "text": text}) for path, text in rows]
    else:
        between = {".csv": ",", ".tsv": "\t"}[manifest.suffix]
        lines = [between.join(row) for row in (("audio", "text"), *rows)]
    manifest.write_text("\n".join(lines), encoding="utf-8")
    return manifest


def folder_of(tmp_path, manifest, ending=".wav"):
    """A folder of the tones as files; gives its manifest."""
    folder = tmp_path / "talks"
    folder.mkdir(exist_ok=True)
    for number in range(len(TEXTS)):
        write(folder / f"{number}{ending}", tone(number))
    return table(folder / manifest, TEXTS, ending)
