"""A real Llama through a folder: its published text, fine-tuned with adapters, and out again.

Karpathy's stories260K, in the layout of llama2.c, lies outside of the repository (BIGMODEL_DATA, or
../shared/data) and is never copied in.
"""

import io
import json
import struct
import tarfile

import numpy as np
import pytest
import tokenizers
from safetensors.numpy import save_file
from tokenizers import decoders, models, pre_tokenizers

import bigmodel
from bigmodel import run, weights
from tests import runs
from tests.convert import folders, foreign_tokenizers

ARCHIVE = foreign_tokenizers.DATA / "stories260K.tar.xz"
LAYER = "model.layers.{}.{}.weight"
NEW = "The robot measured the temperature of seventeen volcanoes. It sent numbers to Geneva. " * 8


@pytest.fixture(scope="module")
def published():
    """Name -> the content of each file."""
    if not ARCHIVE.exists():
        pytest.skip(f"needs {ARCHIVE} (BIGMODEL_DATA names another folder)")
    with tarfile.open(ARCHIVE) as archive:
        members = [m for m in archive.getmembers() if m.isfile()]
        return {m.name.split("/")[-1]: archive.extractfile(m).read() for m in members}


def tensors_of(content):
    """(config, tensors) of a file of llama2.c: seven int32, then float32 in its order."""
    D, F, layers, H, K, V, length = struct.unpack("7i", content[:28])
    flat, at = np.frombuffer(content, np.float32, offset=28), 0
    C = D // H

    def take(*shape):
        nonlocal at
        at += int(np.prod(shape))
        return flat[at - int(np.prod(shape)) : at].reshape(shape)

    def halves(rows):
        """[heads * C, D]: pairs (0, 1), (2, 3), ... of each head -> pairs (i, i + C / 2)."""
        return rows.reshape(-1, C // 2, 2, D).transpose(0, 2, 1, 3).reshape(-1, D)

    found = {"model.embed_tokens.weight": take(V, D)}
    kinds = {
        "input_layernorm": (D,),
        "self_attn.q_proj": (H * C, D),
        "self_attn.k_proj": (K * C, D),
        "self_attn.v_proj": (K * C, D),
        "self_attn.o_proj": (D, H * C),
        "post_attention_layernorm": (D,),
        "mlp.gate_proj": (F, D),
        "mlp.down_proj": (D, F),
        "mlp.up_proj": (F, D),
    }
    for kind, shape in kinds.items():
        turned = kind.endswith(("q_proj", "k_proj"))
        for layer, value in enumerate(take(layers, *shape)):
            found[LAYER.format(layer, kind)] = halves(value) if turned else value
    found["model.norm.weight"] = take(D)
    assert len(flat) - at == length * C  # tables of cosines and sines; the head is the embedding
    sizes = dict(vocab_size=V, hidden_size=D, intermediate_size=F, num_hidden_layers=layers)
    sizes |= dict(num_attention_heads=H, num_key_value_heads=K, max_position_embeddings=length)
    kind = dict(architectures=["LlamaForCausalLM"], model_type="llama", tie_word_embeddings=True)
    ids = dict(bos_token_id=1, eos_token_id=2)
    return {**sizes, **kind, **ids, "rms_norm_eps": 1e-5, "hidden_act": "silu"}, found


def tokenizer_of(content):
    """llama2.c's tokens (score, length, bytes of each) as the BPE of a tokenizer.json."""
    pieces, at = [], 4
    while at < len(content):
        score, length = struct.unpack("fi", content[at : at + 8])
        pieces.append((score, content[at + 8 : at + 8 + length].decode().replace(" ", "▁")))
        at += 8 + length
    pieces[:3] = [(0.0, name) for name in ("<unk>", "<s>", "</s>")]
    vocab = {piece: i for i, (_, piece) in enumerate(pieces)}
    merges = []
    for _, piece in sorted(pieces[259:], key=lambda pair: -pair[0]):
        cuts = [(piece[:n], piece[n:]) for n in range(1, len(piece))]
        merges += [cut for cut in cuts if set(cut) <= vocab.keys()]
    bpe = models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    library = tokenizers.Tokenizer(bpe)
    library.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    spaces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    library.decoder = decoders.Sequence([*spaces, decoders.Strip(" ", 1, 0)])
    library.add_special_tokens(["<unk>", "<s>", "</s>"])
    library.post_processor = foreign_tokenizers.begun(library, "<s>")
    return library


@pytest.fixture(scope="module")
def theirs(published, tmp_path_factory):
    place = tmp_path_factory.mktemp("stories260K")
    settings, tensors = tensors_of(published["stories260K.bin"])
    (place / "config.json").write_text(json.dumps(settings))
    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    tokenizer_of(published["tok512.bin"]).save(str(place / "tokenizer.json"))
    named = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (place / "tokenizer_config.json").write_text(json.dumps(named | {"unk_token": "<unk>"}))
    return place


@pytest.fixture(scope="module")
def imported(theirs, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("imported") / "run"
    bigmodel.import_hf(theirs, workdir, show=folders.quiet)
    return bigmodel.load(workdir)


def test_an_imported_llama_has_its_published_logits_and_ids(published, imported):
    golden = np.load(io.BytesIO(published["golden.npz"]))
    tokens = golden["prompt_ids"][None].astype(np.int32)
    found = imported.apply(imported.params, {"tokens": tokens})["logits"][0]
    np.testing.assert_allclose(found, golden["prompt_logits"], rtol=1e-4, atol=1e-4)
    tokenizer = imported.tokenizer
    text = tokenizer.decode(golden["prompt_ids"])
    assert tokenizer.starts
    assert [tokenizer.bos, *tokenizer.encode(text)] == golden["prompt_ids"].tolist()
    whole = published["expected_greedy.txt"].decode().rstrip("\n")
    assert tokenizer.decode(golden["greedy_ids"]).startswith(whole)


def test_an_imported_llama_writes_its_published_text_word_for_word(published, imported):
    golden = np.load(io.BytesIO(published["golden.npz"]))["greedy_ids"]
    ((text,),) = run.sample(imported, [""], max_new_tokens=len(golden) - 1, temperature=0.0)
    assert text == imported.tokenizer.decode(golden[1:])


@pytest.fixture(scope="module")
def tuned(theirs, imported, tmp_path_factory):
    """The workdir of a run that began from the folder and trained adapters on a new text."""
    place = tmp_path_factory.mktemp("tuned")
    (place / "text.jsonl").write_text(json.dumps({"text": NEW}) + "\n")
    config = bigmodel.default_config("decoder")
    config.model.update(imported.config.model)
    config.data.update(source=f"jsonl:{place / 'text.jsonl'}", split="all", length=32)
    config.data.tokenizer = imported.config.data.tokenizer
    config.init_from = str(theirs)
    config.lora.update(rank=4, alpha=8.0, targets=("layers/.*kernel$",))
    config.update(steps=30, batch=8, evals={})
    config.schedule.update(peak=1e-2, warmup=3)
    config.log.update(every=1, tensorboard=False)
    bigmodel.train(config, place / "run")
    return place / "run"


def test_adapters_lower_the_loss_of_a_new_text(tuned):
    losses = runs.losses(tuned)
    assert losses[1] > 3.0
    assert losses[30] < 0.5 * losses[1]


@pytest.mark.parity
def test_transformers_loads_the_merged_export_and_computes_alike(tuned, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    bigmodel.export_hf(tuned, tmp_path / "out", show=folders.quiet)
    loaded = bigmodel.load(tuned)
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")(NEW)["input_ids"]
    assert read == [loaded.tokenizer.bos, *loaded.tokenizer.encode(NEW)]
    ids = np.array([read[:61]])
    ours = loaded.apply(loaded.params, {"tokens": ids.astype(np.int32)})["logits"]
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        theirs = model(torch.tensor(ids)).logits.numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft asks for it
def test_peft_loads_the_adapters_and_computes_alike(theirs, tuned, tmp_path):
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    weights.export_adapter(tuned, tmp_path / "adapter", show=folders.quiet)
    loaded = bigmodel.load(tuned)
    ids = np.array([[loaded.tokenizer.bos, *loaded.tokenizer.encode(NEW)[:60]]])
    ours = loaded.apply(loaded.params, {"tokens": ids.astype(np.int32)})["logits"]
    base = transformers.AutoModelForCausalLM.from_pretrained(theirs)
    with torch.no_grad():
        without = base(torch.tensor(ids)).logits.numpy()
        adapted = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
        found = adapted(torch.tensor(ids)).logits.numpy()
    np.testing.assert_allclose(ours, found, rtol=1e-4, atol=1e-4)
    assert np.abs(without - found).max() > 0.1  # the adapters do say something
