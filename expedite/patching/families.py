"""The families of models that are known, and the hosts that they find inside a model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module

from torch import nn

from expedite.patching.host import Host

FindHost = Callable[[nn.Module], Host | None]

# Makes its families known when it is imported. Families are written with what is here, so it is
# imported by its name, and only when a model is first looked at.
_SHIPPED = "expedite.patchers"

_families: list[FindHost] = []
_names: list[str] = []
_reasons: dict[str, str] = {}


def register(
    families: Sequence[FindHost], names: Sequence[str], reasons: Mapping[str, str]
) -> None:
    """Make families known; those that came first are asked first.

    Args:
        families: Each says which host a module is, without importing a library that it is not of.
        names: What errors call them.
        reasons: Why models are refused, in a relative clause, by the name of a class in them.
    """
    _families.extend(families)
    _names.extend(names)
    _reasons.update(reasons)


def family_names() -> tuple[str, ...]:
    """What the families that are known are called."""
    import_module(_SHIPPED)
    return tuple(_names)


def reasons() -> Mapping[str, str]:
    """Why models with a class of these names are refused."""
    import_module(_SHIPPED)
    return _reasons


def find_hosts(model: nn.Module) -> Iterator[tuple[str, Host]]:
    """Every host inside `model` (in itself, in DDP, in a compiled wrapper), with its path."""
    import_module(_SHIPPED)
    claimed: list[str] = []
    for path, module in model.named_modules():
        if any(path.startswith(owner) for owner in claimed):
            continue
        for find in _families:
            if host := find(module):
                claimed.append(f"{path}." if path else "")
                yield path, host
                break
