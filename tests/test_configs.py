"""Laws of the configs: every size is the published model, and every file's tiny one trains."""

import ast
import math
import pathlib
import runpy

import jax
import optax
import pytest
from flax import linen as nn

from bigmodel import config, costs, models, objectives, recipe, trees
from tests import tables

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"

# GPT-2: openai-community/gpt2*, the weights counted. GPT-3: worked out from table 2.1; the paper
# says 174,600 million (table D.1). All others: `safetensors.total` of the models on Hugging Face;
# Gemma 3 of 4B and more: total, less the vision tower (416,866,032) and its projector (1152 width +
# 1152), so 4,300,079,472, 12,187,325,040 and 27,432,406,640 become those below.
PUBLISHED_PARAMETERS = {
    "gpt.py:124m": 124_439_808,
    "gpt.py:355m": 354_823_168,
    "gpt.py:774m": 774_030_080,
    "gpt.py:1.5b": 1_557_611_200,
    "gpt.py:175b": 174_604_259_328,
    "llama.py:1b": 1_235_814_400,
    "llama.py:3b": 3_212_749_824,
    "llama.py:8b": 8_030_261_248,
    "llama.py:70b": 70_553_706_496,
    "llama.py:405b": 405_853_388_800,
    "llama.py:2-7b": 6_738_415_616,
    "llama.py:2-13b": 13_015_864_320,
    "llama.py:2-70b": 68_976_648_192,
    "mistral.py:7b": 7_241_732_096,
    "qwen.py:2.5-0.5b": 494_032_768,
    "chat.py:qwen2.5-0.5b-instruct": 494_032_768,
    "qwen.py:2.5-1.5b": 1_543_714_304,
    "qwen.py:2.5-3b": 3_085_938_688,
    "qwen.py:2.5-7b": 7_615_616_512,
    "qwen.py:2.5-14b": 14_770_033_664,
    "qwen.py:2.5-32b": 32_763_876_352,
    "qwen.py:2.5-72b": 72_706_203_648,
    "qwen.py:3-0.6b": 596_049_920,
    "qwen.py:3-1.7b": 1_720_574_976,
    "qwen.py:3-4b": 4_022_468_096,
    "qwen.py:3-8b": 8_190_735_360,
    "qwen.py:3-14b": 14_768_307_200,
    "qwen.py:3-32b": 32_762_123_264,
    "qwen.py:3-30b-a3b": 30_532_122_624,
    "qwen.py:3-235b-a22b": 235_093_634_560,
    "mixtral.py:8x7b": 46_702_792_704,
    "mixtral.py:8x22b": 140_620_634_112,
    "deepseek.py:v3": 671_026_419_200,
    "deepseek.py:v3-4layers": 671_026_419_200 - 57 * 11_507_286_272,
    "gemma.py:2-2b": 2_614_341_888,
    "gemma.py:2-9b": 9_241_705_984,
    "gemma.py:2-27b": 27_227_128_320,
    "gemma.py:3-1b": 999_885_952,
    "gemma.py:3-4b": 3_880_263_168,
    "gemma.py:3-12b": 11_766_034_176,
    "gemma.py:3-27b": 27_009_346_304,
    # ViT: timm's vit_*_patch16_224 and vit_huge_patch14_224, less class token and its position.
    "vit.py:small": 22_050_664 - 2 * 384,
    "vit.py:base": 86_567_656 - 2 * 768,
    "vit.py:large": 304_326_632 - 2 * 1024,
    "vit.py:huge": 632_045_800 - 2 * 1280,
    # CLIP: OpenAI's weights counted, without the position numbers that they hold. SigLIP:
    # `safetensors.total` of google/siglip-base-patch16-224.
    "clip.py:vit-b-32": 151_277_313,
    "clip.py:vit-b-16": 149_620_737,
    "clip.py:vit-l-14": 427_616_513,
    "siglip.py:base-patch16-224": 203_155_970,
    # Both worked out from their config.json. PaliGemma: SigLIP So400m/14 without pooling
    # (412,442,352), a product (2,361,344), Gemma 2B with 257,216 tokens (2,508,662,784); the larger
    # ones have more positions. LLaVA: CLIP ViT-L/14 at 336 (303,507,456), two products (20,979,712
    # and 31,467,520), Llama 2 with 32,064 tokens (6,738,939,904 and 13,016,519,680); less the last
    # of CLIP's 24 layers and the norm after it, which nobody reads.
    "paligemma.py:3b-224": 2_923_466_480,
    "paligemma.py:3b-448": 2_923_466_480 + (1024 - 256) * 1152,
    "paligemma.py:3b-896": 2_923_466_480 + (4096 - 256) * 1152,
    "llava.py:1.5-7b": 7_063_427_072 - 12_598_272,
    "llava.py:1.5-13b": 13_351_494_656 - 12_598_272,
    "prefix_lm.py:124m": 124_439_808 - 1024 * 768,  # GPT-2 without learned positions
}

FILES = sorted(path.name for path in CONFIGS.glob("*.py"))
SIZES = {
    f"{file}:{size}": size
    for file in FILES
    for size in runpy.run_path(str(CONFIGS / file)).get("SIZES", {})
}
# A file may have several: tiny-classify, ...
TINY = [name for name, size in SIZES.items() if size.startswith("tiny")]


def load(name: str) -> config.Loaded:
    return recipe.resolve(config.load(f"{CONFIGS}/{name}"))


def model_of(name: str):
    """The model's fields, its handle, and shapes of its parameters."""
    section = load(name).config.model
    module, make = models.FAMILIES[section.name]
    fields = config.resolve(section, module, "model")
    model = make(**fields)
    return fields, model, nn.unbox(jax.eval_shape(model.init, jax.random.key(0), model.example))


# Of each config `make test` has the first that stands above, `make test-families` all.
FIRST_OF_EACH = {name.partition(":")[0]: name for name in reversed(PUBLISHED_PARAMETERS)}.values()


@pytest.mark.parametrize("name", tables.rows(PUBLISHED_PARAMETERS, FIRST_OF_EACH))
def test_a_size_has_the_published_parameters(name):
    fields, _, params = model_of(name)
    assert trees.count(params) == PUBLISHED_PARAMETERS[name]
    if load(name).config.model.name == "decoder":
        assert costs.parameters(fields) == PUBLISHED_PARAMETERS[name]


# What a file's sizes are counted by, where papers count otherwise than its config: heads and not.
COUNTED_IN = {
    "bert.py": "test_encoder.py",
    "bert_classify.py": "test_encoder.py",
    "bert_label.py": "test_encoder.py",
    "bert4rec.py": "test_recommender.py",
    "sasrec.py": "test_recommender.py",
    "dit.py": "test_dit.py",
    "mae.py": "test_masked_autoencoder.py",
    "t5.py": "test_encoder_decoder.py",
    "transformer.py": "test_encoder_decoder.py",
    "whisper.py": "test_speech.py",
    "ctc.py": "test_speech.py",
}


def test_every_size_has_a_published_count():
    here = [n for n in set(SIZES) - set(TINY) if n.partition(":")[0] not in COUNTED_IN]
    assert sorted(here) == sorted(PUBLISHED_PARAMETERS)
    for name in set(SIZES) - set(TINY) - set(here):
        file, _, size = name.partition(":")
        text = (CONFIGS.parent / "tests/models" / COUNTED_IN[file]).read_text()
        assert f'"{size}"' in text or f'"{name}"' in text, name


def test_every_file_has_a_tiny_size_or_is_small_itself():
    assert {name.partition(":")[0] for name in TINY} == set(FILES) - {"quickstart.py"}


@pytest.mark.parametrize("file", FILES)
def test_a_file_without_a_size_is_a_whole_config(file):
    values = load(file).config
    assert values.evals.validation.split  # not all sources have a split of that name
    assert values.schedule.warmup < values.steps


@pytest.mark.parametrize("file", FILES)
def test_a_head_says_the_command_that_runs_it(file):
    head = ast.get_docstring(ast.parse((CONFIGS / file).read_text()))
    assert f"bigmodel train --config configs/{file}" in (head or "")


DECODERS = [name for name in [*TINY, "quickstart.py"] if load(name).config.model.name == "decoder"]

# Plain, and of experts. All of them: `make test-families`.
FIRST = ("quickstart.py", "mixtral.py:tiny")


@pytest.mark.parametrize("name", tables.rows(DECODERS, FIRST))
def test_what_needs_no_download_learns(name):
    values = load(name).config
    assert (values.data.source, values.data.tokenizer) == ("python_stdlib", "bytes")
    assert values.model.vocab >= 257
    assert values.mesh.to_dict() == dict.fromkeys(values.mesh, 1)

    _, model, params = model_of(name)
    assert trees.count(params) < 5e6
    objective = objectives.next_token(model)
    tokens = jax.random.randint(jax.random.key(1), (2, 33), 0, 257)
    batch = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:]}

    @jax.jit
    def losses(key):
        params = nn.unbox(model.init(key, batch))
        (before, sums), grads = jax.value_and_grad(objective, has_aux=True)(params, batch, None)
        norm = optax.tree.norm(grads)
        moved = jax.tree.map(lambda p, g: p - 0.3 * g / norm, params, grads)
        after, _ = objective(moved, batch, None)
        return before / sums["weight"], after / sums["weight"]

    before, after = losses(jax.random.key(0))
    assert before == pytest.approx(math.log(values.model.vocab), rel=0.1)  # nothing known yet
    assert after < before
