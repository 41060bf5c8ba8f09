"""What stands in place of methods of a patched model, where hooks on modules see nothing.

Put in place and taken off by `hooks`; module-level callable objects like the hooks there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from expedite.patching.frame import Frame
from expedite.patching.host import Reads
from expedite.patching.key_bias import as_key_bias
from expedite.patching.session import Session


@dataclass(eq=False)
class MethodHook:
    """Stands on an instance in place of a method that hooks do not see."""

    session: Session
    module: nn.Module
    name: str
    before: Callable[..., Any] | None  # what stood on the instance, if anything did

    def original(self, *args: Any, **kwargs: Any) -> Any:
        if self.before is not None:
            return self.before(*args, **kwargs)
        return getattr(type(self.module), self.name)(self.module, *args, **kwargs)


@dataclass(eq=False)
class CallMethod(MethodHook):
    """Opens a call in which only the backbone runs."""

    reads: Callable[..., Reads]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        reads = self.reads(self.module, *args, **kwargs)
        self.session.open(Frame(False, reads, gives_mask(args, kwargs)))
        try:
            return self.original(*args, **kwargs)
        finally:
            self.session.close()


class MakeBias(MethodHook):
    """Gives a block the bias of the clusters in place of the full grid's."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        frame = self.session.frame
        if frame is None or frame.keeps_every_token:
            return self.original(*args, **kwargs)
        bias, of_host = self.session.bias(frame, self.module), self.session.host.bias
        is_due = of_host is not None and of_host.of_each_image
        return bias.repeat(len(frame.levels[-1].record.mass), 1, 1, 1) if is_due else bias


class RunBlock(MethodHook):
    """Runs a block on clusters, by its own `forward` unless that would not do.

    It stands on every block that may: Dynamo looks for compiled code that fits without regard to
    hooks and would take a block for an unpatched one, but it sees what is in place of a method.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        run, frame = self.session.host.run, self.session.frame
        if run is None or frame is None or frame.cells is None or frame.keeps_every_token:
            return self.original(*args, **kwargs)
        return run(self.module, args[0], frame.cells, kwargs)


class Attend(MethodHook):
    """Attends under a mask where clusters weigh by their mass, in place of attention without."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        frame, attention = self.session.frame, self.session.host.attention
        if attention is None or frame is None or frame.mask is None:
            return self.original(*args, **kwargs)
        return attention.attend(self.module, as_key_bias(frame.mask), *args, **kwargs)


def gives_mask(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call of a model has a mask among its arguments, under whatever name."""
    named = [value for name, value in kwargs.items() if "mask" in name]
    return any(isinstance(value, Tensor) for value in [*args[1:], *named])


def in_place_of(
    module: nn.Module, name: str, kind: type[MethodHook], session: Session, *more: Any
) -> None:
    """Put a hook of a kind in place of a module's method, over what stands there."""
    setattr(module, name, kind(session, module, name, vars(module).get(name), *more))
