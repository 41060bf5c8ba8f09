"""`timm:NAME`, with random weights or a checkpoint's."""

from typing import Any

import timm
from timm.data.config import resolve_data_config

from expedite.errors import ExpediteError
from expedite.loading.model import LoadedModel, Wanted
from expedite.models.files import first_line


def build(wanted: Wanted) -> LoadedModel:
    if not timm.is_model(wanted.name):
        near = timm.list_models(f"*{wanted.name}*")[:5] or timm.list_models("vit_*")[:5]
        raise ExpediteError(
            f"'{wanted.spec}' was asked, which timm does not know; it has {', '.join(near)}"
        )
    arguments = {"img_size": wanted.image_size, "num_classes": wanted.classes}
    given: dict[str, Any] = {key: value for key, value in arguments.items() if value is not None}
    try:
        model = timm.create_model(wanted.name, pretrained=False, **given).eval()
    except TypeError as error:  # not every architecture takes both
        asked = ", ".join(f"{key}={value}" for key, value in given.items())
        raise ExpediteError(
            f"'{wanted.spec}' was asked with {asked}, which timm refuses: {first_line(error)}"
        ) from error
    config: dict[str, Any] = resolve_data_config(model=model)  # type: ignore[no-untyped-call]
    size = wanted.image_size or config["input_size"][1:]
    trained = wanted.fill(model)
    return LoadedModel(wanted.spec, model, size, config["mean"], config["std"], trained)
