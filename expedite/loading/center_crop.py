"""How published evaluations of classifiers cut images: resized, and then their centre taken."""

from dataclasses import dataclass
from math import floor
from typing import Any

from expedite.errors import ExpediteError

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")


@dataclass(frozen=True)
class CenterCrop:
    """A resize before the centre is cut out that a model sees.

    Args:
        resized: (height, width) in pixels that an image has after it, at least.
        keeps_shape: Whether an image is resized until it just covers `resized`; otherwise it gets
            that size, whatever its shape was.
        interpolation: As torchvision calls it; smaller images are filtered, as Pillow does.
    """

    resized: tuple[int, int]
    keeps_shape: bool
    interpolation: str

    def __str__(self) -> str:
        height, width = self.resized
        how = "to cover" if self.keeps_shape else "whatever their shape to"
        return f"resized {how} {height}×{width} px ({self.interpolation})"

    @classmethod
    def of_config(cls, config: dict[str, Any], size: tuple[int, int]) -> "CenterCrop | None":
        """What a `pretrained_cfg` of timm says, for models that see (height, width) pixels.

        None where it says nothing, or asks for a border.

        Raises:
            ExpediteError: It says what can be no share.

        Example:
            >>> CenterCrop.of_config({"crop_pct": 0.9, "interpolation": "bicubic"}, (224, 224))
            CenterCrop(resized=(248, 248), keeps_shape=True, interpolation='bicubic')
        """
        share, mode = config.get("crop_pct"), config.get("crop_mode") or "center"
        if share is None or mode == "border":
            return None
        if not isinstance(share, int | float) or not share > 0:
            raise ExpediteError(f"a crop_pct of {share!r} was given; a share above 0 is due")
        kind = config.get("interpolation") or "bilinear"
        if mode not in ("center", "squash") or kind not in _INTERPOLATIONS:
            raise ExpediteError(
                f"crop_mode={mode!r} with interpolation={kind!r} was given; center or squash, with "
                f"{', '.join(_INTERPOLATIONS)} are known"
            )
        resized = floor(size[0] / share), floor(size[1] / share)
        return cls(resized, mode == "center", kind)
