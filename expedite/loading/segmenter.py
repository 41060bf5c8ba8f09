"""`segmenter:FILE`, a published checkpoint, and `segmenter:BACKBONE`, with random weights."""

from pathlib import Path

from expedite.errors import ExpediteError
from expedite.loading.model import LoadedModel, Wanted
from expedite.models.segmenter_files import (
    BACKBONES,
    NORMALIZATIONS,
    build_segmenter,
    load_segmenter,
)


def build(wanted: Wanted) -> LoadedModel:
    path = Path(wanted.name)
    if path.is_file():
        wanted.refuse_others()
        model, preprocessing = load_segmenter(path)
        trained = True
    elif wanted.name in BACKBONES:
        model, preprocessing = build_segmenter(
            wanted.name, wanted.image_size, wanted.classes or 150
        )
        trained = wanted.fill(model)
    else:
        raise ExpediteError(
            f"'{wanted.spec}' was asked; '{wanted.name}' is neither a checkpoint file that is "
            f"there nor a published backbone, which are {', '.join(BACKBONES)}"
        )
    mean, deviation = NORMALIZATIONS[preprocessing.normalization]
    window = preprocessing.window_size
    return LoadedModel(
        name=wanted.spec,
        model=model.eval(),
        image_size=wanted.image_size or (window, window),
        mean=mean,
        deviation=deviation,
        trained=trained,
        window_stride=preprocessing.window_stride,
        short_side=preprocessing.im_size,
        dataset=preprocessing.dataset,
        task="segmentation",
    )
