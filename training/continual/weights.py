"""Writing a model's weights from however many processes hold them."""

import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from ...compress.atomic import sync_directory


def save_weights(
    accelerator: Accelerator, model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Write a model folder (float32) that appears whole or not at all. All processes call it."""
    state = accelerator.get_state_dict(model)
    if accelerator.is_main_process:
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        accelerator.unwrap_model(model).save_pretrained(temporary, state_dict=state)
        tokenizer.save_pretrained(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        sync_directory(folder.parent)
    accelerator.wait_for_everyone()


def move_into(folder: Path, parent: Path) -> None:
    """Move a folder's files into `parent`, over files of the same names."""
    for path in folder.iterdir():
        path.replace(parent / path.name)
    folder.rmdir()
    sync_directory(parent)
