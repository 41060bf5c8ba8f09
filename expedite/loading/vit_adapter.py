"""`vit_adapter:FILE`, a published checkpoint or our own, and `vit_adapter:VARIANT`."""

from pathlib import Path

from expedite.errors import ExpediteError
from expedite.loading.model import LoadedModel, Wanted
from expedite.models.adapter_files import VARIANTS, build_adapter, load_adapter
from expedite.models.segmenter_files import NORMALIZATIONS

# Of the published settings whose windows step otherwise than by two thirds of a side.
_STRIDES = {896: 512}


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
    mean, deviation = NORMALIZATIONS[variant.normalization]
    crop = variant.crop
    return LoadedModel(
        name=wanted.spec,
        model=model.eval(),
        image_size=wanted.image_size or (crop, crop),
        mean=mean,
        deviation=deviation,
        trained=trained,
        window_stride=None if wanted.image_size else _STRIDES.get(crop, 2 * crop // 3),
        short_side=None if wanted.image_size else crop,
        dataset=variant.dataset or ("ade20k" if variant.n_cls == 150 else ""),
        task="segmentation",
    )
