"""Checkpoints of Hugging Face folders in and out, by one table of names a family."""

from bigmodel.convert import gpt2, llama
from bigmodel.convert.architecture import Architecture
from bigmodel.convert.folders import Folder, export, open_folder, which

ARCHITECTURES: dict[str, Architecture] = gpt2.ARCHITECTURES | llama.ARCHITECTURES

__all__ = ["ARCHITECTURES", "Architecture", "Folder", "export", "open_folder", "which"]
