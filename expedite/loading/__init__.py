"""Models by name, as the command line takes them; each kind of name has a file of its own here.

A name is a recipe, or KIND:NAME with a kind of `_FORMS`, or FILE.py:FACTORY.
"""

import importlib
from dataclasses import replace
from pathlib import Path

from torch import nn

from expedite.errors import ExpediteError
from expedite.loading import factory
from expedite.loading.model import LoadedModel, TaskName, Wanted
from expedite.recipes import RECIPES, Recipe

__all__ = ["LoadedModel", "TaskName", "load", "load_model"]

# Kinds with what may stand behind the colon. A kind's module is imported when it is asked for:
# importing the package is not to import the libraries that models come from.
_FORMS = {
    "segmenter": "FILE (a checkpoint with its variant.yml) or BACKBONE",
    "dpt": "FILE or VARIANT",
    "demo": "segmenter or dpt (the small models that are shipped)",
    "hf": "FOLDER (of a model of transformers, or its name on the hub)",
    "mask2former": "FILE or VARIANT",
    "sam": "FILE or VARIANT",
    "swin": "FILE or VARIANT",
    "timm": "NAME",
    "torchvision": "NAME",
    "vit_adapter": "FILE or VARIANT",
}


def load(spec: str, checkpoint: str | Path | None = None) -> nn.Module:
    """Make or load the model that `spec` names, in eval mode.

    Args:
        spec: A recipe, `segmenter:FILE`, `segmenter:BACKBONE`, `dpt:FILE`, `dpt:VARIANT`,
            `demo:segmenter`, `demo:dpt`, `hf:FOLDER`, `mask2former:FILE`, `mask2former:VARIANT`,
            `sam:FILE`, `sam:VARIANT`, `swin:FILE`, `swin:VARIANT`, `timm:NAME`, `torchvision:NAME`,
            `vit_adapter:FILE`, `vit_adapter:VARIANT`, or `FILE.py:FACTORY`, a function without
            arguments that returns a model with weights, and may give it a `pretrained_cfg` with
            "input_size", "mean", "std" and "task".
        checkpoint: A file of weights for what would have random ones: tensors in safetensors or in
            a pickle, bare or under "model" or "state_dict". Nothing in it is run.

    Raises:
        ExpediteError: Nothing of that name is known, or what was found is damaged.

    Example:
        >>> import expedite
        >>> expedite.load("timm:vit_tiny_patch16_224").training
        False
    """
    if (file := factory.parse(spec)) is not None:
        return factory.make(Wanted.of(spec, checkpoint=checkpoint), *file)
    return load_model(spec, checkpoint=checkpoint).model


def load_model(
    spec: str,
    image_size: tuple[int, int] | None = None,
    classes: int | None = None,
    checkpoint: str | Path | None = None,
) -> LoadedModel:
    """Make or load the model that `spec` names, with what is needed to feed it images.

    A model of transformers without a preprocessor_config.json gets the mean and deviation 0.5.

    Args:
        spec: See `load`.
        image_size: (height, width); None takes the model's own.
        classes: How many, where weights are random or a checkpoint's; None takes the
            architecture's own.
        checkpoint: See `load`.

    Raises:
        ExpediteError: Nothing of that name is known, or what was found is damaged.

    Example:
        >>> load_model("segmenter:vit_tiny_patch16_384", (64, 64), classes=4).trained
        False
    """
    if classes is not None and classes < 1:
        raise ExpediteError(f"{classes} classes were asked of '{spec}'; there is at least 1")
    if (recipe := RECIPES.get(spec)) is not None:
        return _of_recipe(recipe, image_size, classes, checkpoint)
    wanted = Wanted.of(spec, image_size, classes, checkpoint)
    if (file := factory.parse(spec)) is not None:
        return factory.build(wanted, *file)
    if wanted.kind not in _FORMS:
        forms = ", ".join(f"{kind}:{rest}" for kind, rest in _FORMS.items())
        raise ExpediteError(
            f"the model '{spec}' was asked; the forms are {forms}, FILE.py:FACTORY, and the "
            f"recipes {', '.join(RECIPES)}"
        )
    source = importlib.import_module(f"expedite.loading.{wanted.kind}")
    loaded: LoadedModel = source.build(wanted)
    return loaded


def _of_recipe(
    recipe: Recipe,
    image_size: tuple[int, int] | None,
    classes: int | None,
    checkpoint: str | Path | None,
) -> LoadedModel:
    size = image_size or recipe.image_size
    loaded = load_model(recipe.model, size, classes or recipe.classes, checkpoint)
    loaded = replace(loaded, name=recipe.name, dataset=recipe.dataset or loaded.dataset)
    if recipe.windows is None or image_size is not None:  # windows fit the published size alone
        return loaded
    short_side, stride = recipe.windows
    return replace(loaded, short_side=short_side, window_stride=stride)
