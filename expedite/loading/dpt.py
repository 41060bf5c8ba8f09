"""`dpt:FILE`, a published checkpoint or our own, and `dpt:VARIANT`, a published architecture."""

from pathlib import Path

from expedite.errors import ExpediteError
from expedite.loading.model import LoadedModel, Wanted
from expedite.models.dpt_files import VARIANTS, build_dpt, load_dpt
from expedite.models.segmenter_files import NORMALIZATIONS


def build(wanted: Wanted) -> LoadedModel:
    path = Path(wanted.name)
    if path.is_file():
        wanted.refuse_others()
        model, variant = load_dpt(path)
        trained = True
    elif wanted.name in VARIANTS:
        wanted.refuse_classes()
        model, variant = build_dpt(wanted.name)
        trained = wanted.fill(model)
    else:
        raise ExpediteError(
            f"'{wanted.spec}' was asked; '{wanted.name}' is neither a checkpoint file that is "
            f"there nor a published model, which are {', '.join(VARIANTS)}"
        )
    mean, deviation = NORMALIZATIONS["vit"]
    return LoadedModel(
        name=wanted.spec,
        model=model.eval(),
        image_size=wanted.image_size or variant.image_size,
        mean=mean,
        deviation=deviation,
        trained=trained,
        dataset=variant.dataset,
        task="segmentation" if variant.config.n_cls else "depth",
        metric_depth=variant.config.scale is not None,
    )
