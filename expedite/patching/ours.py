"""What of ours stands on a model's modules: put in place, and found again by its type.

Everything is a module-level callable object, so that a patched model copies, pickles and traces,
and its copy can be unpatched like the model itself.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import MethodType
from typing import Any

from torch import nn

from expedite.errors import ExpediteError
from expedite.patching.weak import Weak


class _NoScript(ExpediteError, AttributeError):
    """An attribute that is asked for by TorchScript's compiler alone."""


def _refuse_script(thing: Any) -> Any:
    raise _NoScript(
        "torch.jit.script was asked of a patched model, whose hooks it cannot read; "
        "expedite.export writes files of a patched model, and torch.jit.trace works"
    )


class Ours:
    """Something of ours on a module."""

    # What only the compiler of TorchScript asks of hooks and methods.
    __name__ = property(_refuse_script)
    __globals__ = property(_refuse_script)


@dataclass(eq=False)
class MethodHook(Ours):
    """Stands on an instance in place of a method that hooks do not see.

    Args:
        of: Whose method.
        name: What it is called.
        before: What stood on the instance, if anything did.
    """

    of: Weak[nn.Module]
    name: str
    before: Callable[..., Any] | None

    @property
    def module(self) -> nn.Module:
        return self.of()

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.plain())

    @property
    def __code__(self) -> Any:  # whose arguments torch.export counts
        return inspect.unwrap(self.plain()).__code__

    def original(self, *args: Any, **kwargs: Any) -> Any:
        """What the method does without us."""
        if self.before is not None:
            return self.before(*args, **kwargs)
        module = self.of()
        return getattr(type(module), self.name)(module, *args, **kwargs)

    def plain(self) -> Callable[..., Any]:
        """What is to stand where this was kept by somebody else."""
        if self.before is not None:
            return self.before
        module = self.of()
        return MethodType(getattr(type(module), self.name), module)


def before(module: nn.Module, hook: Ours) -> None:
    """Put a hook in place that runs before a module, after those that are there."""
    module.register_forward_pre_hook(hook, with_kwargs=True)  # type: ignore[arg-type]


def after(module: nn.Module, hook: Ours) -> None:
    """Put a hook in place that runs after a module, before those that are there."""
    # In front of hooks that are there already: a recorder among them must see the full grid.
    module.register_forward_hook(hook, prepend=True, with_kwargs=True)  # type: ignore[arg-type]


def in_place_of(module: nn.Module, name: str, kind: type[MethodHook], *more: Any) -> None:
    """Put a hook of a kind in place of a module's method, over what stands there."""
    setattr(module, name, kind(Weak(module), name, vars(module).get(name), *more))


def everything(model: nn.Module) -> Iterator[Any]:
    """Whatever of ours stands on `model` and what it contains."""
    for module in model.modules():
        for hooks, *_ in _tables(module):
            yield from (hook for hook in list(hooks.values()) if isinstance(hook, Ours))
        yield from (value for value in list(vars(module).values()) if isinstance(value, MethodHook))


def remove(model: nn.Module) -> None:
    """Take everything of ours off `model` and whatever it contains, and nothing else."""
    for module in model.modules():
        for hooks, *companions in _tables(module):
            for key in [key for key, hook in list(hooks.items()) if isinstance(hook, Ours)]:
                for table in (hooks, *companions):
                    table.pop(key, None)
        for name, value in list(vars(module).items()):
            if isinstance(value, MethodHook):
                _put_back(module, name, value)


def _put_back(module: nn.Module, name: str, hook: MethodHook) -> None:
    if name == hook.name and hook.before is None:
        vars(module).pop(name, None)
    else:  # under another name others keep what they put something of theirs around
        setattr(module, name, hook.plain())


def _tables(module: nn.Module) -> list[tuple[dict[int, Any], ...]]:
    return [
        (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
        (
            module._forward_hooks,
            module._forward_hooks_with_kwargs,
            module._forward_hooks_always_called,
        ),
    ]
