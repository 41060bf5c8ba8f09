"""The hooks of a patched model: put in place for a session, found again by their type.

Every hook is a module-level callable object, so that a patched model copies, pickles and traces,
and its copy can be unpatched like the model itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.patching.arguments import of_full_grid, unlisted, with_mask, with_positions
from expedite.patching.frame import Frame
from expedite.patching.host import Reads, TokenHead
from expedite.patching.methods import (
    Attend,
    CallMethod,
    MakeBias,
    MethodHook,
    RunBlock,
    gives_mask,
    in_place_of,
)
from expedite.patching.session import Session

# Whose hooks on blocks read no tokens: recorders of transformers stay there once they were used,
# and the host knows when they record; fvcore's and PyTorch's own count, shard and the like.
_KNOWN_HOOKS = ("transformers.", "fvcore.", "torch.")

Arguments = tuple[Any, ...]
Keywords = dict[str, Any]


@dataclass(eq=False)
class Hook:
    """Something of ours on a module."""

    session: Session


@dataclass(eq=False)
class OpenCall(Hook):
    """Before the model or its backbone runs."""

    with_head: bool

    def __call__(self, module: nn.Module, args: Arguments, kwargs: Keywords) -> None:
        # Open before the arguments are looked at: whatever happens, the call is closed.
        frame = Frame(self.with_head, Reads())
        self.session.open(frame)
        frame.masked = gives_mask(args, kwargs)
        frame.reads = self.session.host.reads(module, args, kwargs)


class CloseCall(Hook):
    """After the model or its backbone ran, or failed."""

    def __call__(self, module: nn.Module, args: Arguments, kwargs: Keywords, output: Any) -> None:
        frame = self.session.store.frames[-1]
        self.session.close()
        if output is not None:  # or the call failed
            self.session.check_end(frame)


class NoteGrid(Hook):
    """After the embedding made tokens of an image."""

    def __call__(self, module: nn.Module, args: Arguments, kwargs: Keywords, output: Any) -> None:
        if frames := self.session.store.frames:
            height, width = self.session.host.grid(module, args, output)
            # Sizes are tensors while torch.jit.trace runs; a graph is of one grid in any case.
            frames[-1].grid = int(height), int(width)


@dataclass(eq=False)
class EnterBlock(Hook):
    """Before a block of the backbone runs."""

    index: int

    def __call__(
        self, module: nn.Module, args: Arguments, kwargs: Keywords
    ) -> tuple[Arguments, Keywords] | None:
        if (frame := self.session.frame) is None:
            return None
        host = self.session.host
        args, rewrap = unlisted(host, args)
        tokens = self.session.enter(frame, self.index, module, args[0])
        if not frame.levels:
            return rewrap((tokens, *args[1:])), kwargs
        args, kwargs = with_positions(host, frame, args, kwargs)
        frame.query_mask = self._query_mask(frame, args, kwargs)
        if of_full_grid(host, frame, args, kwargs):
            raise ExpediteError(
                f"block {self.index} was called with a mask, which covers the full grid, and it is "
                "to run on clusters; call the model without a mask, or unpatch it"
            )
        return rewrap((tokens, *args[1:])), kwargs

    def _query_mask(self, frame: Frame, args: Arguments, kwargs: Keywords) -> Tensor | None:
        """The mask among clusters, where the block got one for its queries."""
        host = self.session.host
        if host.queries is None or not host.queries.masked or host.mask is None:
            return None
        given = host.mask.find(args, kwargs)
        is_due = given is not None and not frame.keeps_every_token
        return self.session.query_mask(frame, self.index, given) if is_due else given


class AddMask(Hook):
    """Before a block, or the attention in it, that is to weigh clusters by their mass."""

    def __call__(
        self, module: nn.Module, args: Arguments, kwargs: Keywords
    ) -> tuple[Arguments, Keywords] | None:
        if (frame := self.session.frame) is None:
            return None
        return with_mask(self.session.host, frame, args, kwargs)


@dataclass(eq=False)
class LeaveBlock(Hook):
    """After a block of the backbone ran."""

    index: int

    def __call__(self, module: nn.Module, args: Arguments, kwargs: Keywords, output: Any) -> Any:
        if (frame := self.session.frame) is None:
            return None
        is_read = _has_readers(module)
        if isinstance(output, (tuple, list)):  # tokens, then attention weights and the like
            tokens = self.session.leave(frame, self.index, output[0], is_read)
            return type(output)((tokens, *output[1:]))
        return self.session.leave(frame, self.index, output, is_read)


@dataclass(eq=False)
class EnterInjection(Hook):
    """Before a module between blocks that can ask with clusters."""

    places: int

    def __call__(
        self, module: nn.Module, args: Arguments, kwargs: Keywords
    ) -> tuple[Arguments, Keywords] | None:
        if (frame := self.session.frame) is None or frame.stream is None:
            return None
        tokens, where = self.session.take_stream(frame, args[self.places].device)
        rest = list(args[1:])
        rest[self.places - 1] = where
        return (tokens, *rest), kwargs


class LeaveInjection(Hook):
    """After a module between blocks that asked with reconstructed tokens."""

    def __call__(
        self, module: nn.Module, args: Arguments, kwargs: Keywords, output: Tensor
    ) -> None:
        if (frame := self.session.frame) is not None and frame.stream is not None:
            self.session.add_to_stream(frame, output - args[0])


class AverageClusters(Hook):
    """After the last module before the head averages tokens."""

    def __call__(
        self, module: nn.Module, args: Arguments, kwargs: Keywords, output: Tensor
    ) -> Tensor | None:
        host, frame = self.session.host, self.session.frame
        if frame is None or frame.keeps_every_token or not frame.with_head:
            return None
        return self.session.average(frame, output) if host.readout(host.model) == "mean" else None


@dataclass(eq=False)
class EnterHeadBlock(Hook):
    """Before a block of the head runs."""

    index: int
    queries: int

    def __call__(
        self, module: nn.Module, args: Arguments, kwargs: Keywords
    ) -> tuple[Arguments, Keywords] | None:
        if (frame := self.session.frame) is None or not frame.levels:
            return None
        tokens = args[0]
        if self.index == 0:
            tokens = self.session.enter_head(frame, tokens, self.queries)
        return (tokens, *args[1:]), kwargs


@dataclass(eq=False)
class LeaveHead(Hook):
    """After the part of the head that runs on clusters."""

    queries: int

    def __call__(
        self, module: nn.Module, args: Arguments, kwargs: Keywords, output: Tensor
    ) -> Tensor | None:
        if (frame := self.session.frame) is None or not frame.levels:
            return None
        return self.session.leave_head(frame, output, self.queries)


class NoteSharedBias(Hook):
    """After the model made the bias that it hands to all blocks."""

    def __call__(
        self, module: nn.Module, args: Arguments, kwargs: Keywords, output: Tensor
    ) -> None:
        if (frame := self.session.frame) is not None:
            frame.shared_bias = output


def _has_readers(block: nn.Module) -> bool:
    """Whether hooks of other people see what a block puts out."""
    others = [hook for hook in block._forward_hooks.values() if not isinstance(hook, Hook)]
    return any(not _module_of(hook).startswith(_KNOWN_HOOKS) for hook in others)


def _module_of(hook: Any) -> str:
    return str(getattr(hook, "__module__", type(hook).__module__))


def install(session: Session) -> None:
    """Put a session's hooks in place."""
    host, plan = session.host, session.plan
    _around(host.model, OpenCall(session, with_head=True), CloseCall(session))
    if host.backbone is not host.model:
        _around(host.backbone, OpenCall(session, with_head=False), CloseCall(session))
    host.embedding.register_forward_hook(NoteGrid(session), with_kwargs=True)
    for _, first, end in plan.ranges(host.depth):
        for index in range(first, end):
            _hook_block(session, index)
    if host.bias is not None and host.bias.shared is not None:
        after(host.bias.shared, NoteSharedBias(session))
    if host.pooled is not None:
        after(host.pooled, AverageClusters(session))
    if plan.reconstruct_at == "head" and host.head is not None:
        _hook_head(session, host.head)
    for injection in host.injections:
        if injection.places is None:
            after(injection.module, LeaveInjection(session))
        else:
            before(injection.module, EnterInjection(session, injection.places))
    for method in host.methods:
        in_place_of(host.backbone, method.name, CallMethod, session, method.reads)
    session.add_hooks()


def _hook_block(session: Session, index: int) -> None:
    host, block = session.host, session.host.blocks[index]
    before(block, EnterBlock(session, index))
    if host.mask is not None:
        before(host.mask.module(block), AddMask(session))
    if host.attention is not None:
        in_place_of(host.attention.module(block), "forward", Attend, session)
    in_place_of(block, "forward", RunBlock, session)
    after(block, LeaveBlock(session, index))
    if host.bias is not None and (maker := host.bias.own(block)) is not None:
        in_place_of(maker, host.bias.method, MakeBias, session)


def _hook_head(session: Session, head: TokenHead) -> None:
    for index, block in enumerate(head.blocks):
        before(block, EnterHeadBlock(session, index, head.queries))
        before(block, AddMask(session))
    if not session.plan.delta:
        after(head.last, LeaveHead(session, queries=0))
    elif head.blocks:
        after(head.blocks[-1], LeaveHead(session, head.queries))


def remove(model: nn.Module) -> None:
    """Take every hook of ours off `model` and whatever it contains."""
    for module in model.modules():
        for hooks, *companions in _tables(module):
            for key in [key for key, hook in hooks.items() if isinstance(hook, Hook)]:
                for table in (hooks, *companions):
                    table.pop(key, None)
        for name, value in list(vars(module).items()):
            if isinstance(value, MethodHook):
                delattr(module, name)
                if value.before is not None:
                    setattr(module, name, value.before)


def find_sessions(model: nn.Module) -> Iterator[Session]:
    """The sessions whose host is inside `model`."""
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, OpenCall) and hook.with_head:
                yield hook.session


def _tables(module: nn.Module) -> list[tuple[dict[int, Any], ...]]:
    return [
        (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
        (
            module._forward_hooks,
            module._forward_hooks_with_kwargs,
            module._forward_hooks_always_called,
        ),
    ]


def before(module: nn.Module, hook: Any) -> None:
    """Put a hook in place that runs before a module, after those that are there."""
    module.register_forward_pre_hook(hook, with_kwargs=True)


def after(module: nn.Module, hook: Any) -> None:
    """Put a hook in place that runs after a module, before those that are there."""
    # In front of hooks that are there already: a recorder among them must see the full grid.
    module.register_forward_hook(hook, prepend=True, with_kwargs=True)


def _around(module: nn.Module, opening: OpenCall, closing: CloseCall) -> None:
    # First of all, so that a call which is closed was opened even if another hook fails.
    module.register_forward_pre_hook(opening, prepend=True, with_kwargs=True)
    module.register_forward_hook(closing, with_kwargs=True, always_call=True)
