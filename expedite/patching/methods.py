"""What stands in place of methods of a patched model: calls, blocks and makers of biases.

A call opens a frame, and its blocks find it there; both close what they opened whatever happens.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.patching.arguments import of_full_grid, unlisted, with_mask, with_positions
from expedite.patching.frame import Frame
from expedite.patching.host import Reads
from expedite.patching.key_bias import as_key_bias
from expedite.patching.masks import query_mask
from expedite.patching.ours import MethodHook, remove
from expedite.patching.session import Session


@dataclass(eq=False)
class SessionMethod(MethodHook):
    """Something in place of a method that acts for a session."""

    session: Session


@dataclass(eq=False)
class RunCall(SessionMethod):
    """Opens a call of the model, its backbone or another of their methods.

    Args:
        with_head: Whether it is the whole model's.
        reads: Maps the module and the arguments, a tuple and a dictionary, to what the call reads.
    """

    with_head: bool
    reads: Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Reads]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        store, call = self.session.store, object()
        frames = store.frames
        depth = len(frames)
        try:
            if not torch.compiler.is_compiling():
                store.running.add(call)  # before the session is looked at: it then stays in place
            session = self.session
            if not session.is_on:
                return self.original(*args, **kwargs)
            if not torch.compiler.is_compiling():
                session.watch.look_again()
            frame = self._open(session, frames, args, kwargs)
            if frame in frames[:depth]:
                return self.original(*args, **kwargs)
            output = session.call(frame, self.original, args, kwargs)
            session.check_end(frame)
            self._note(session, frame)
            return output
        finally:
            del frames[depth:]
            store.running.discard(call)
            if self.session.is_leaving:
                take_off(self.session)

    def _note(self, session: Session, frame: Frame) -> None:
        """Remember that spans began, or say it where none did."""
        if torch.compiler.is_compiling():
            return
        session.store.has_clustered = frame.has_clustered or not session.is_reached(frame)
        session.check_clustered()

    def _open(
        self, session: Session, frames: list[Frame], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Frame:
        """The call's frame; the backbone's call inside that of its model shares the model's."""
        reads = self.reads(self.module, args, kwargs)
        last = frames[-1] if frames else None
        if last is None or last.grid is not None:
            is_known = self.with_head and self.is_own
            last = Frame(session, is_known, reads, gives_mask(args, kwargs))
            if session.host.views is not None:
                last.views, last.grid = session.host.views.layout(self.module, args, kwargs)
            if self.with_head and not is_known:  # somebody's own way of calling it
                last.reads = reads.and_those_of(Reads())
        elif self.name != "forward" or not last.with_head:
            # A known model says what it reads of its backbone, whatever it asks it for.
            last.reads = last.reads.and_those_of(reads)
        frames.append(last)
        return last

    @property
    def is_own(self) -> bool:
        """Whether what runs is the method of the module's class, not one put in its place."""
        if self.before is None:
            return True
        own = inspect.unwrap(self.before)
        return isinstance(own, MethodHook) or (
            getattr(own, "__func__", own) is getattr(type(self.module), self.name)
        )


def take_off(session: Session) -> None:
    """Take everything of a session that is over off its model, once none of its calls runs."""
    session.is_leaving = len(session.store.running) > 0
    if not session.is_leaving:
        remove(session.host.model)


@dataclass(eq=False)
class RunBlock(SessionMethod):
    """Runs a block on clusters, by its own `forward` unless that would not do.

    It stands on every block: Dynamo looks for compiled code that fits without regard to hooks and
    would take a block for an unpatched one, but it sees what is in place of a method.
    """

    index: int

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not args:
            args, kwargs = self._by_position(kwargs)
        if isinstance(args[0], list):
            return [self(*unlisted(self.session.host, args), **kwargs)]
        frame = self.session.store.frame
        if frame is None:
            return self._run_alone(args, kwargs)
        if frame.grid is None:
            frame.grid = frame.session.find_grid(self.index, args[0])
        return self._run(frame, args, kwargs)

    def _run_alone(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The block's output where no call surrounds it."""
        frames = self.session.store.frames
        frame = self.session.frame_of(self.index, args[0])
        try:
            if frame is None:
                return self.original(*args, **kwargs)
            frames.append(frame)
            return self._run(frame, args, kwargs)
        finally:
            frames.clear()

    def _run(self, frame: Frame, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        session: Session = frame.session
        module = self.of()
        session.remember(frame, self.index, args[0])
        tokens = session.enter(frame, self.index, module, args[0])
        args = (tokens, *args[1:])
        if frame.levels:
            args, kwargs = self._on_clusters(frame, module, args, kwargs)
        run = session.host.run
        if run is None or frame.cells is None or frame.keeps_every_token:
            output = self.original(session.held(frame, self.index, args[0]), *args[1:], **kwargs)
        else:
            output = run(module, tokens, frame.cells, kwargs)
        is_read = session.watch.is_read(self.index, module)
        if isinstance(output, tuple):  # tokens, then attention weights and the like
            return (session.leave(frame, self.index, output[0], is_read), *output[1:])
        return session.leave(frame, self.index, output, is_read)

    def _on_clusters(
        self, frame: Frame, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the block is called with, in place of what has the size of the full grid."""
        host = frame.session.host
        args, kwargs = with_positions(host, frame, args, kwargs)
        frame.query_mask = query_mask(host, frame, self.index, args, kwargs)
        if of_full_grid(host, frame, args, kwargs):
            raise ExpediteError(
                f"block {self.index} was called with a mask, which covers the full grid, and it is "
                "to run on clusters; call the model without a mask, or unpatch it"
            )
        if host.mask is not None and host.mask.module(module) is module:
            return with_mask(host, frame, args, kwargs)
        return args, kwargs

    def _by_position(self, kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        _, name, *_ = inspect.signature(type(self.module).forward).parameters
        rest = {key: value for key, value in kwargs.items() if key != name}
        return (kwargs[name],), rest


@dataclass(eq=False)
class MakeBias(SessionMethod):
    """Gives a block the bias of the clusters in place of the full grid's."""

    index: int

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        frame = self.session.frame_within(self.index)
        if frame is None or frame.keeps_every_token:
            return self.original(*args, **kwargs)
        bias, of_host = frame.session.bias(frame, self.module), frame.session.host.bias
        if of_host is None or frame.mask is None:
            return bias
        if of_host.stands_alone:
            return bias + frame.mask
        return bias.repeat(len(frame.mask), 1, 1, 1) if of_host.of_each_image else bias


class NoteSharedBias(SessionMethod):
    """Keeps the bias that the model makes for all blocks, as it hands it to them."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        bias = self.original(*args, **kwargs)
        if (frame := self.session.frame) is not None:
            frame.shared_bias = bias
        return bias


@dataclass(eq=False)
class Attend(SessionMethod):
    """Attends among clusters, in place of attention that takes no mask or no positions of each."""

    index: int

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        frame = self.session.frame_within(self.index)
        attention = self.session.host.attention
        if attention is None or frame is None or (frame.mask is None and frame.positions is None):
            return self.original(*args, **kwargs)
        mask = None if frame.mask is None else as_key_bias(frame.mask)
        return attention.attend(self.module, mask, *args, **kwargs)


def gives_mask(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call of a model has a mask among its arguments, under whatever name."""
    named = [value for name, value in kwargs.items() if "mask" in name]
    return any(isinstance(value, Tensor) for value in [*args[1:], *named])
