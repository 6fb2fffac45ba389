"""Checkpoints of Hugging Face folders in and out, by one table of names a family."""

from bigmodel.convert import bert, gemma, gpt2, llama, t5, vision, whisper
from bigmodel.convert.architecture import Architecture
from bigmodel.convert.folders import Folder, export, open_folder, which

ARCHITECTURES: dict[str, Architecture] = {
    name: architecture
    for file in (gpt2, llama, gemma, bert, t5, vision, whisper)
    for name, architecture in file.ARCHITECTURES.items()
}

__all__ = ["ARCHITECTURES", "Architecture", "Folder", "export", "open_folder", "which"]
