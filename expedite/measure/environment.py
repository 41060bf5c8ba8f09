"""With what figures were measured or a fault was seen: the machine and versions of libraries."""

import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version

import torch

from expedite.measure.speed import Setting, device_name
from expedite.version import __version__

_LIBRARIES = ("torchvision", "timm", "transformers", "fvcore", "numpy")
# Of no weight for figures, but for faults.
_OTHERS = ("triton", "segment-anything", "pycocotools", "onnx", "onnxscript", "onnxruntime")
_THEN = "; then "
# Whose releases move figures: how operations run and are counted, and how models are built.
_TELLING = ("torch", "timm", "transformers")


def environment(setting: Setting) -> dict[str, str]:
    """What belongs beside figures that were measured under a setting, by name.

    Example:
        >>> import torch
        >>> from expedite.measure.speed import setting
        >>> found = environment(setting(torch.nn.Conv2d(3, 8, 3), torch.zeros(1, 3, 8, 8)))
        >>> found["dtype"], found["image size"], found["attention"]
        ('float32', '8×8 px', 'unfused')
    """
    height, width = setting.image_size
    return {
        "device": setting.device,
        "dtype": setting.dtype,
        "threads": str(setting.threads),
        "batch": str(setting.batch_size),
        "image size": f"{height}×{width} px",
        "attention": setting.attention,
        "compile": setting.compile_mode,
        "expedite": __version__,
        "torch": setting.torch,
        **_versions(_LIBRARIES),
        "Python": platform.python_version(),
        "system": platform.platform(),
    }


def machine() -> dict[str, str]:
    """What a report of a fault needs to say, by name, with nothing of any model in it.

    Example:
        >>> found = machine()
        >>> found["torch"] == torch.__version__, "processor" in found
        (True, True)
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return {
        "expedite": __version__,
        "torch": torch.__version__,
        **_versions(_LIBRARIES + _OTHERS),
        "Python": platform.python_version(),
        "system": platform.platform(),
        "processor": device_name(torch.device("cpu")),
        "threads": str(torch.get_num_threads()),
        "accelerator": device_name(accelerator) if accelerator else "none",
    }


def other_versions(before: Mapping[str, str]) -> list[str]:
    """The sentence on libraries that are others here than those that figures were made with.

    Args:
        before: Versions by name; what is not in it is not known, and not compared.

    Example:
        >>> other_versions({"torch": "1.0", "numpy": "1.0"})[0].startswith("Made with torch 1.0 (")
        True
        >>> other_versions({})
        []
    """
    now = _versions(_TELLING)
    differing = [
        f"{name} {before[name]} ({now.get(name, 'none')} here)"
        for name in _TELLING
        if name in before and _release(before[name]) != _release(now.get(name, ""))
    ]
    return [f"Made with {', '.join(differing)}: figures can differ."] if differing else []


def _release(version: str) -> str:
    """A version without the word on how it was built."""
    return version.partition("+")[0]


def going_on(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """The environment of figures of which some were measured before, in what may be another one.

    Example:
        >>> going_on({"torch": "2.14", "dtype": "float32"}, {"torch": "2.15", "dtype": "float32"})
        {'torch': '2.14; then 2.15', 'dtype': 'float32'}
    """
    return {name: _both(before.get(name, value), value) for name, value in now.items()}


def _both(before: str, now: str) -> str:
    return before if now in before.split(_THEN) else f"{before}{_THEN}{now}"


def _versions(libraries: Iterable[str]) -> dict[str, str]:
    found = {}
    for name in libraries:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # what is not installed measured nothing
    return found
