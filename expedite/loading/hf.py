"""`hf:FOLDER`, a model of transformers with its weights, in one file or in shards."""

import contextlib
import importlib
import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from PIL.Image import Resampling

from expedite.errors import ExpediteError, first_line
from expedite.loading import oneformer
from expedite.loading.center_crop import CenterCrop
from expedite.loading.model import LoadedModel, Triple, Wanted
from expedite.models.files import quiet_refusals
from expedite.models.segmenter_files import NORMALIZATIONS

# Where nothing is said, transformers asks on the terminal whether to run a folder's code.
_NO_CODE = {"trust_remote_code": False}
# Models of depth in metres whose configuration does not say so.
_METRIC = ("ZoeDepthForDepthEstimation", "GLPNForDepthEstimation")
# What a OneFormer's processor would download when it is made: names of classes, for training.
_UNREAD = {"class_info_file": None}


def build(wanted: Wanted) -> LoadedModel:
    if importlib.util.find_spec("transformers") is None:
        raise ExpediteError(
            f"'{wanted.spec}' needs transformers; pip install 'expedite-vit[hf]' brings it"
        )
    wanted.refuse_others()
    transformers: Any = importlib.import_module("transformers")
    try:
        with _quiet(transformers), quiet_refusals():
            return _read(transformers, wanted)
    except ExpediteError:
        raise
    except Exception as error:  # transformers fails in a dozen ways on damaged files
        raise ExpediteError(
            f"'{wanted.spec}' was asked and cannot be loaded: {first_line(error)}"
        ) from error


def _read(transformers: Any, wanted: Wanted) -> LoadedModel:
    config = transformers.AutoConfig.from_pretrained(wanted.name, **_NO_CODE)
    # Shapes are compared here, since transformers names none of those that do not fit.
    model, report = _class(transformers, wanted, config).from_pretrained(
        wanted.name, output_loading_info=True, ignore_mismatched_sizes=True, **_NO_CODE
    )
    # transformers makes up for both kinds with random weights.
    for kind in ("missing", "mismatched"):
        keys = report[f"{kind}_keys"]  # a mismatched one with its two shapes
        if names := sorted(key if isinstance(key, str) else key[0] for key in keys):
            raise ExpediteError(
                f"'{wanted.spec}' was asked, whose weights do not fit a {type(model).__name__}: "
                f"{len(names)} {kind} ({', '.join(names[:4])})"
            )
    name = type(model).__name__
    processor = _processor(transformers, wanted.name, _UNREAD if name == oneformer.CLASS else {})
    mean, deviation = _normalization(processor)
    size = wanted.image_size or _image_size(config)
    crop = _crop(processor, size) if "ForImageClassification" in name else None
    loaded = LoadedModel(wanted.spec, model.eval(), size, mean, deviation, trained=True, crop=crop)
    loaded = replace(loaded, class_names=_class_names(config))
    if name == oneformer.CLASS:
        oneformer.tell_task(transformers, wanted, model, _NO_CODE)
        return replace(loaded, task="panoptic")
    if not name.endswith("ForDepthEstimation"):
        return loaded
    said = getattr(config, "depth_estimation_type", None) == "metric"
    return replace(loaded, task="depth", metric_depth=said or name in _METRIC)


def _class_names(config: Any) -> tuple[str, ...]:
    """Those of a configuration; the library's own stand-ins, LABEL_0 and so on, are none."""
    names = [str(name) for _, name in sorted((config.id2label or {}).items())]
    return () if any(name.startswith("LABEL_") for name in names) else tuple(names)


def _class(transformers: Any, wanted: Wanted, config: Any) -> Any:
    """The class that a configuration names; where it names none, transformers chooses."""
    names: Any = config.architectures
    if names is None:
        return transformers.AutoModel
    name = names[0] if isinstance(names, list) and names else None
    found = getattr(transformers, name, None) if isinstance(name, str) else None
    if not isinstance(found, type) or not issubclass(found, transformers.PreTrainedModel):
        raise ExpediteError(
            f"'{wanted.spec}' was asked and cannot be loaded: its configuration has the "
            f"architectures {names!r}, and a list of a model class of transformers is due"
        )
    return found


def _image_size(config: Any) -> tuple[int, int]:
    backbone = getattr(config, "backbone_config", None)
    side: Any = getattr(config, "image_size", None) or getattr(backbone, "image_size", 224)
    return (side, side) if isinstance(side, int) else (side[0], side[1])


def _processor(transformers: Any, name: str, settings: dict[str, Any]) -> Any | None:
    """The image processor that is stored with a model, if one is."""
    try:
        return transformers.AutoImageProcessor.from_pretrained(name, **_NO_CODE, **settings)
    except OSError:
        if _has_processor(transformers, name):
            raise
        return None


def _normalization(processor: Any | None) -> tuple[Triple, Triple]:
    if processor is None:
        mean, deviation = NORMALIZATIONS["vit"]
        return mean, deviation
    if getattr(processor, "do_normalize", None) is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, deviation = processor.image_mean, processor.image_std
    return (mean[0], mean[1], mean[2]), (deviation[0], deviation[1], deviation[2])


def _crop(processor: Any | None, size: tuple[int, int]) -> CenterCrop | None:
    """What a processor does to images before a model sees `size` of them, where it says so."""
    resample = getattr(processor, "resample", None)
    if processor is None or not getattr(processor, "do_resize", False) or resample is None:
        return None
    cut = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    if (cut.get("height"), cut.get("width")) != size:
        return None
    resized, side = processor.size, processor.size.get("shortest_edge")
    resized = (side, side) if side else (resized.get("height"), resized.get("width"))
    if None in resized:
        return None
    return CenterCrop(resized, side is not None, Resampling(resample).name.lower())


def _has_processor(transformers: Any, name: str) -> bool:
    try:
        return transformers.utils.cached_file(name, "preprocessor_config.json") is not None
    except OSError:
        return False


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """No table and no progress bar beside the one sentence of an error."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
