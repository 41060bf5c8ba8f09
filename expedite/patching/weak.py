"""Modules held weakly: what a model is patched with must not keep the model alive."""

import copy
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from torch import nn

from expedite.errors import ExpediteError

Class = TypeVar("Class", bound=type)
Module = TypeVar("Module", bound=nn.Module)


class Weak(Generic[Module]):
    """A module that somebody else keeps. Copies and pickles together with it."""

    def __init__(self, module: Module) -> None:
        self._reference = weakref.ref(module)

    def __call__(self) -> Module:
        module = self._reference()
        if module is None:
            raise ExpediteError(
                "modules of a host are gone: blocks changed after it was patched, or the model was "
                "dropped; patch it again"
            )
        return module

    @property
    def is_gone(self) -> bool:
        return self._reference() is None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Weak[Module]":
        return Weak(copy.deepcopy(self(), memo))

    def __reduce__(self) -> tuple[type["Weak[Module]"], tuple[Module]]:
        return Weak, (self(),)


class _Field:
    """An attribute that is a module, or a tuple of modules, and is held weakly."""

    def __init__(self, name: str) -> None:
        self.name = f"_weak_{name}"

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        held = instance.__dict__[self.name]
        if isinstance(held, tuple):
            return tuple(one() for one in held)
        return None if held is None else held()

    def __set__(self, instance: Any, value: Any) -> None:
        held: Any = None
        if isinstance(value, tuple):
            held = tuple(Weak(one) for one in value)
        elif value is not None:
            held = Weak(value)
        instance.__dict__[self.name] = held


def weakly(*names: str) -> Callable[[Class], Class]:
    """Let a dataclass hold the modules in these fields weakly; they are read as ever."""

    def hold(kind: Class) -> Class:
        for name in names:
            setattr(kind, name, _Field(name))
        return kind

    return hold
