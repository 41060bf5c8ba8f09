"""`vit_adapter:FILE`, a published checkpoint or our own, and `vit_adapter:VARIANT`."""

from pathlib import Path

from expedite.errors import ExpediteError
from expedite.loading.model import LoadedModel, Wanted
from expedite.models.adapter_files import VARIANTS, build_adapter, load_adapter
from expedite.models.segmenter_files import NORMALIZATIONS

_CROP = (512, 512)


def build(wanted: Wanted) -> LoadedModel:
    path = Path(wanted.name)
    if path.is_file():
        wanted.refuse_others()
        model, variant = load_adapter(path)
        trained = True
    elif wanted.name in VARIANTS:
        model, variant = build_adapter(wanted.name, wanted.classes)
        trained = wanted.fill(model)
    else:
        raise ExpediteError(
            f"'{wanted.spec}' was asked; '{wanted.name}' is neither a checkpoint file that is "
            f"there nor a published model, which are {', '.join(VARIANTS)}"
        )
    config = variant.config
    # Those whose positions are of 384 pixels were trained from AugReg's ViTs, which take -1 to 1.
    mean, deviation = NORMALIZATIONS["vit" if config.image_size == (384, 384) else "deit"]
    size = config.image_size if config.beit else _CROP
    is_published = variant.n_cls == 150
    return LoadedModel(
        name=wanted.spec,
        model=model.eval(),
        image_size=wanted.image_size or size,
        mean=mean,
        deviation=deviation,
        trained=trained,
        window_stride=None if wanted.image_size else 2 * size[0] // 3,
        short_side=None if wanted.image_size else size[0],
        dataset="ade20k" if is_published else "",
        task="segmentation",
    )
