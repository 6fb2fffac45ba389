"""What bigmodel needs, and its command."""

import pathlib
import re

import setuptools

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "bigmodel/__init__.py").read_text())
README = HERE / "README.md"

REQUIRES = [
    "absl-py>=2.5",
    "array-record>=0.8",
    "cloudpickle>=3",
    "etils[epath]>=1.15",
    "flax>=0.12",
    "grain>=0.2.18",
    "importlib-resources>=6",  # tensorflow-datasets uses it and does not say so
    "jax>=0.10,<0.13",  # 0.10 is the last line for Python 3.11
    "jinja2>=3.1",
    "matplotlib>=3.11",
    "ml-collections>=1.1",
    "numpy>=2.4",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12",
    "pyarrow>=26",
    "rich>=15",
    "safetensors>=0.8",
    "sentencepiece>=0.2.1",
    "tensorboardX>=2.6",
    "tensorflow-datasets>=4.9.10",
    "tokenizers>=0.23",
    "zstandard>=0.25",
]

# The TPU compiler, for machines without a TPU; there are wheels for Linux on x86-64 alone.
LIBTPU = "libtpu; sys_platform == 'linux' and platform_machine == 'x86_64'"

EXTRAS = {
    "cuda": ["jax[cuda12]"],
    "tpu": ["jax[tpu]"],
    "plan": [LIBTPU],
    "plan-gpu": ["jax[cuda12-local]"],  # the compiler alone, without NVIDIA's libraries
    "gcs": ["etils[epath-gcs]"],  # gs:// paths
    "s3": ["etils[epath-s3]"],  # s3:// paths of data
    "clean": ["datasketch>=2", "py3langid>=0.4"],  # near-duplicates, and the language of a text
    "text": ["sacrebleu>=2.6"],
    "audio": ["soundfile"],
    "scores": ["jiwer>=4", "sacrebleu>=2.6", "scikit-learn>=1.7"],  # and SciPy, with the last
    "lm-eval": ["lm-eval>=0.4.13"],
    "image": ["pillow", "scikit-learn"],  # scikit-learn: its digits
    # What conversion is held to, and the tasks of lm-eval.
    "parity": ["lm-eval>=0.4.13", "peft>=0.19", "torch==2.13.0", "transformers>=5"],
    "dev": [
        LIBTPU,
        "datasketch>=2",
        "hypothesis>=6",
        "jiwer>=4",
        "mkdocs-material>=9",
        "mypy>=2.4",
        "py3langid>=0.4",
        "pytest>=9",
        "pytest-xdist>=3.8",
        "ruff>=0.17",
        "sacrebleu>=2.6",
        "scikit-learn>=1.7",
        "soundfile>=0.13",
    ],
}

setuptools.setup(
    name="bigmodel",
    version=VERSION[1] if VERSION else "0",
    description="Trains large transformers in JAX across TPU and GPU meshes, from one config file",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.11,<3.14",
    packages=setuptools.find_packages(include=["bigmodel", "bigmodel.*"]),
    package_data={"bigmodel": ["py.typed", "report/*.css"]},
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["bigmodel = bigmodel.__main__:main"]},
)
