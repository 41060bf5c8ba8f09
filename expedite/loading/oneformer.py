"""A OneFormer of transformers, which is told its task in words with every image."""

from typing import Any

import numpy as np
from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.loading.model import TaskName, TaskWords, Wanted

CLASS = "OneFormerForUniversalSegmentation"
_WORDS: dict[TaskName, str] = {
    "panoptic": "panoptic",
    "segmentation": "semantic",
    "instance": "instance",
}


def tell_task(
    transformers: Any, wanted: Wanted, model: nn.Module, settings: dict[str, Any]
) -> None:
    """Let a model be called with images alone, for the panoptic task until another is asked.

    Args:
        transformers: The library.
        wanted: Names the folder, which has a tokenizer.
        model: Of the class `CLASS`.
        settings: How the library is to load from a folder.

    Raises:
        ExpediteError: The folder has no tokenizer.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(wanted.name, **settings)
    # Where there are no files of one, transformers makes up a tokenizer that knows no word.
    if "semantic" not in tokenizer.decode(tokenizer("semantic")["input_ids"]):
        raise ExpediteError(
            f"'{wanted.spec}' was asked, a OneFormer, which is told its task in words; the files "
            "of its tokenizer are due beside its weights (vocab.json, merges.txt)"
        )
    length: int = getattr(model.config, "task_seq_len", 77)
    processor = transformers.OneFormerProcessor(
        transformers.OneFormerImageProcessor(), tokenizer, task_seq_length=length
    )
    words = {task: _tokens(processor, word) for task, word in _WORDS.items()}
    model.register_forward_pre_hook(TaskWords(words, "panoptic"), with_kwargs=True)


def _tokens(processor: Any, word: str) -> Tensor:
    """The tokens of a task, (1, length), which processors make beside an image alone."""
    image = np.zeros((32, 32, 3), np.uint8)
    tokens: Tensor = processor(image, [word], return_tensors="pt")["task_inputs"]
    return tokens
