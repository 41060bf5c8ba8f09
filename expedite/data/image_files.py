"""Image files: whatever one says about itself is used, or the file is refused in one sentence.

Colour profiles are not applied: no published pipeline does.
"""

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from expedite.errors import ExpediteError, first_line

_COLOURS = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")  # without alpha
_ALPHA = ("LA", "PA", "RGBA", "La", "RGBa")
# Those whose files say how many bits are used: all 16 of them.
_SIXTEEN_BITS = (("PNG", "I;16"), ("PNG", "I;16B"), ("PNG", "I"))
_STEP = 257  # of 16 bits from one value of 8 bits to the next: 65535 is 255
_ORIENTATION = 0x0112  # in EXIF


def open_image(path: Path) -> Image.Image:
    """An image file, decoded and turned as it says that it is to be shown.

    Raises:
        ExpediteError: It is no image, is damaged, is larger than Pillow reads, or holds several.
    """
    _refuse_what_is_no_file(path)
    try:
        with warnings.catch_warnings():
            # Of sizes up to twice Pillow's limit, and of tags that nothing depends on.
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                # A camera's second picture (a preview, a depth map) is beside the first.
                if getattr(image, "is_animated", False) and image.format != "MPO":
                    raise ExpediteError(
                        f"{path} holds {getattr(image, 'n_frames', 'several')} images; one is due"
                    )
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                return image
    except ExpediteError:
        raise
    except Exception as error:  # damaged bytes fail decoders in a dozen ways
        raise ExpediteError(f"{path} cannot be read as an image: {first_line(error)}") from error


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """An image file as models are shown it, (H, W, 3); 16 bits of grey become 8.

    Raises:
        ExpediteError: It cannot be read, some of it is transparent, or nothing says what its values
            mean.
    """
    image = open_image(path)
    if (image.format, image.mode) in _SIXTEEN_BITS:
        grey = _eight_bits(path, image)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode not in (*_COLOURS, *_ALPHA):
        raise ExpediteError(
            f"{path} is an image of mode {image.mode}, whose values have no known range; 8 bits a "
            "channel, or a PNG of 16 bits of grey, are due"
        )
    if image.mode in _ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise _transparent(path)
    return np.asarray(image.convert("RGB"))


def is_turned(path: Path) -> bool:
    """Whether an image file says that it is to be shown otherwise than it is stored."""
    with Image.open(path) as image:
        return bool(image.getexif().get(_ORIENTATION, 1) != 1)


def is_shown(path: Path) -> bool:
    """Whether a folder's listing shows a file; macOS hides a ._NAME beside each on other disks."""
    return not path.name.startswith(".")


def _eight_bits(path: Path, image: Image.Image) -> NDArray[np.uint8]:
    levels = np.asarray(image).astype(np.int64)
    if np.any(levels == image.info.get("transparency", -1)):
        raise _transparent(path)
    return np.rint(levels / _STEP).astype(np.uint8)


def _transparent(path: Path) -> ExpediteError:
    return ExpediteError(
        f"{path} is transparent in places, whose colours nobody says; an image without "
        "transparency is due"
    )


def _refuse_what_is_no_file(path: Path) -> None:
    """A pipe would be waited for without end."""
    if not path.is_file():
        what = "is no file" if path.exists() else "is not there"
        raise ExpediteError(f"{path} cannot be read as an image: it {what}")
