"""The page on weights of others does what it says: commands and Python, on a small GPT-2."""

import json
import re
import shlex

import jax
import pytest
from flax.core import meta

from bigmodel import __main__ as door
from bigmodel import config, convert, models, trees
from tests import runs
from tests.convert import folders

PAGE = (runs.ROOT / "docs/hugging_face.md").read_text()
TEXT = ["Hello, I'm a language model, and what I say is short.", "def walk(top): 你好 🙂"]
SMALL = dict(vocab=290, width=16, layers=2, heads=2, length=64, init_std=0.3, dtype="float32")


def write_gpt2(folder):
    """A folder as the Hub has one, of weights that nobody trained."""
    import tokenizers

    module, make = models.FAMILIES["decoder"]
    fields = {name: default for name, (_, default) in config.schema(module).items()} | SMALL
    model = make(**fields)
    params = trees.flatten(meta.unbox(jax.jit(model.init)(jax.random.key(0), model.example)))
    kind = convert.ARCHITECTURES["GPT2LMHeadModel"]
    convert.export(folder, "GPT2LMHeadModel", kind, fields, params, dtype="float32", ids={})
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=SMALL["vocab"],
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(TEXT, trainer)
    library.save(str(folder / "tokenizer.json"))
    said = dict.fromkeys(("bos_token", "eos_token"), "<|endoftext|>")
    (folder / "tokenizer_config.json").write_text(json.dumps(said))


@pytest.fixture
def here(tmp_path, monkeypatch):
    write_gpt2(tmp_path / "gpt2")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_its_commands_run_one_after_the_other(here, capsys):
    (commands,) = blocks("sh")
    for line in commands.splitlines():
        command, *arguments = shlex.split(line)
        assert command == "bigmodel"
        assert door.main(arguments) == 0, line
    out = capsys.readouterr().out
    assert out.count("\n----\n") == 4  # five texts, each with its prompt
    assert out.count("Hello") >= 5
    before, after = folders.read(here / "gpt2"), folders.read(here / "exported")
    assert before.keys() == after.keys()
    assert (here / "exported" / "tokenizer.json").read_text() == (
        here / "gpt2" / "tokenizer.json"
    ).read_text()


def test_its_python_runs(here, capsys):
    (program,) = blocks("python")
    names = {}
    exec(compile(program, "docs/hugging_face.md", "exec"), names)
    assert len(names["samples"][0]) == 5
    prompt = "Hello, I'm a language model,"
    assert names["run"].tokenizer.decode(names["ids"]) == prompt
    assert names["logits"].shape == (1, len(names["ids"]), SMALL["vocab"])


def test_every_architecture_is_on_it():
    assert not [name for name in convert.ARCHITECTURES if f"`{name}`" not in PAGE]


def test_what_it_says_is_refused_is_so_from_the_command(here, capsys):
    call = ["import", "--from", "gpt2", "--workdir", "runs/a"]
    path = here / "gpt2" / "config.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"vocab_size": 280}))
    assert door.main(call) == 2
    path.write_text(json.dumps(fields))
    assert "model.vocab = 280 is less than the 290 tokens" in capsys.readouterr().err
    assert not (here / "runs" / "a").exists()
    for more, words in (
        (["--adapter"], "has no adapters"),
        (["--adapter", "--dtype", "float16"], "adapters are float32"),
    ):
        write_gpt2(here / "other")
        if not (here / "b").exists():
            assert door.main(["import", "--from", "other", "--workdir", "b"]) == 0
        assert door.main(["export", "--workdir", "b", "--to", "c", *more]) == 2
        assert words in capsys.readouterr().err
