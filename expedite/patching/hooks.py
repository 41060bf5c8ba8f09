"""The hooks of a patched model, put in place for a session; beside them stand `methods`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from expedite.patching.arguments import with_mask
from expedite.patching.host import Host, Reads, TokenHead
from expedite.patching.methods import Attend, MakeBias, NoteSharedBias, RunBlock, RunCall
from expedite.patching.ours import Ours, after, before, everything, in_place_of
from expedite.patching.refusals import check_call, check_tensor
from expedite.patching.session import Session
from expedite.patching.views import RunViews, TurnBetween

Arguments = tuple[Any, ...]
Keywords = dict[str, Any]


@dataclass(eq=False)
class Hook(Ours):
    """A hook that acts for a session."""

    session: Session


@dataclass(eq=False)
class EnterModel(Hook):
    """Before the model or its backbone runs: by this a patched model is known."""

    is_whole: bool

    def __call__(self, module: nn.Module, args: Arguments, kwargs: Keywords) -> None:
        check_call(self.session.host, module)
        if self.is_whole and not torch.compiler.is_compiling():
            self.session.store.has_clustered = False


class LeaveModel(Hook):
    """After the model ran, if by way of what was put in place of ours."""

    def __call__(self, module: nn.Module, args: Arguments, kwargs: Keywords, output: Any) -> None:
        self.session.check_clustered()


class NoteGrid(Hook):
    """After the embedding made tokens of an image."""

    def __call__(self, module: nn.Module, args: Arguments, kwargs: Keywords, output: Any) -> None:
        check_call(self.session.host, module)
        check_tensor(self.session.host, output[0] if isinstance(output, tuple) else output)
        self.note(self.session.host.grid(module, args, output))

    def note(self, grid: tuple[int, int]) -> None:
        # Sizes are tensors while torch.jit.trace runs; a graph is of one grid in any case.
        height, width = (int(side) for side in grid)
        store = self.session.store
        if store.frame is not None:
            store.frame.grid = height, width
        else:
            store.grid = height, width


class NoteMap(NoteGrid):
    """After the convolution in an embedding, which others call in its place."""

    def __call__(self, module: nn.Module, args: Arguments, kwargs: Keywords, output: Any) -> None:
        check_call(self.session.host, module)
        check_tensor(self.session.host, output)
        self.note((output.shape[-2], output.shape[-1]))


@dataclass(eq=False)
class AddMask(Hook):
    """Before attention in block `index`, that is to weigh clusters by their mass."""

    index: int

    def __call__(
        self, module: nn.Module, args: Arguments, kwargs: Keywords
    ) -> tuple[Arguments, Keywords] | None:
        if (frame := self.session.frame_within(self.index)) is None:
            return None
        return with_mask(frame.session.host, frame, args, kwargs)


class AddHeadMask(Hook):
    """Before a block of the head that is to weigh clusters by their mass."""

    def __call__(
        self, module: nn.Module, args: Arguments, kwargs: Keywords
    ) -> tuple[Arguments, Keywords] | None:
        if (frame := self.session.frame) is None:
            return None
        return with_mask(frame.session.host, frame, args, kwargs)


@dataclass(eq=False)
class EnterInjection(Hook):
    """Before a module between blocks that can ask with clusters."""

    places: int

    def __call__(
        self, module: nn.Module, args: Arguments, kwargs: Keywords
    ) -> tuple[Arguments, Keywords] | None:
        if (frame := self.session.frame) is None or frame.stream is None:
            return None
        tokens, where = frame.session.take_stream(frame, args[0], args[self.places].device)
        rest = list(args[1:])
        rest[self.places - 1] = where
        return (tokens, *rest), kwargs


class LeaveInjection(Hook):
    """After a module between blocks that asked with reconstructed tokens."""

    def __call__(
        self, module: nn.Module, args: Arguments, kwargs: Keywords, output: Tensor
    ) -> None:
        if (frame := self.session.frame) is not None and frame.stream is not None:
            frame.session.add_to_stream(frame, args[0], output)


class AverageClusters(Hook):
    """After the last module before the head averages tokens."""

    def __call__(
        self, module: nn.Module, args: Arguments, kwargs: Keywords, output: Tensor
    ) -> Tensor | None:
        host, frame = self.session.host, self.session.frame
        if frame is None or frame.keeps_every_token or not frame.with_head:
            return None
        if host.readout(host.model) != "mean":
            return None
        averaged: Tensor = frame.session.average(frame, module, args[0], output)
        return averaged


@dataclass(eq=False)
class EnterHeadBlock(Hook):
    """Before a block of the head runs."""

    index: int
    queries: int

    def __call__(
        self, module: nn.Module, args: Arguments, kwargs: Keywords
    ) -> tuple[Arguments, Keywords] | None:
        if (frame := self.session.frame) is None or not frame.session.is_in_head(frame):
            self.session.check_head_again()
            return None
        tokens = args[0]
        if self.index == 0:
            tokens = frame.session.enter_head(frame, tokens, self.queries)
        return (tokens, *args[1:]), kwargs


@dataclass(eq=False)
class LeaveHead(Hook):
    """After the part of the head that runs on clusters, which `delta` makes shorter."""

    queries: int
    with_delta: bool

    def __call__(
        self, module: nn.Module, args: Arguments, kwargs: Keywords, output: Tensor
    ) -> Tensor | None:
        if (frame := self.session.frame) is None or not frame.session.is_in_head(frame):
            return None
        if frame.session.plan.delta != self.with_delta:
            return None
        restored: Tensor = frame.session.leave_head(frame, output, self.queries)
        return restored


@dataclass(eq=False)
class NoteBypass(Hook):
    """Before a layer in a block, which nothing but a run of the block should reach."""

    index: int

    # With keywords or without: layers that are quantised take hooks over and hand them none.
    def __call__(self, module: nn.Module, *arguments: Any) -> None:
        if not torch.compiler.is_compiling() and self.session.store.frame is None:
            self.session.check_bypass(self.index)


def install(session: Session) -> None:
    """Put a session's hooks in place: the same whatever its plan, but for those that it brings."""
    host = session.host
    _hook_calls(session)
    after(host.embedding, NoteGrid(session))
    if host.projection is not None:
        after(host.projection, NoteMap(session))
    for index, block in enumerate(host.blocks):
        _hook_block(session, index, block)
    if host.views is not None and host.views.rope is not None:
        in_place_of(host.views.rope, "forward", TurnBetween, session)
    if host.bias is not None and host.bias.shared is not None:
        in_place_of(host.bias.shared, host.bias.shared_method, NoteSharedBias, session)
    if host.pooled is not None:
        after(host.pooled, AverageClusters(session))
    if host.head is not None:
        _hook_head(session, host.head)
    for injection in host.injections:
        if injection.places is None:
            after(injection.module, LeaveInjection(session))
        else:
            before(injection.module, EnterInjection(session, injection.places))
    session.add_hooks()


def _hook_calls(session: Session) -> None:
    host = session.host
    for module in dict.fromkeys((host.model, host.backbone)):
        is_whole = module is host.model
        before(module, EnterModel(session, is_whole))
        in_place_of(module, "forward", RunCall, session, is_whole, host.reads)
    host.model.register_forward_hook(LeaveModel(session), with_kwargs=True)
    for method in host.methods:
        reads = partial(_of_method, method.reads)
        in_place_of(host.backbone, method.name, RunCall, session, False, reads)


def _of_method(
    reads: Callable[..., Reads], module: nn.Module, args: Arguments, kwargs: Keywords
) -> Reads:
    return reads(module, *args, **kwargs)


def _hook_block(session: Session, index: int, block: nn.Module) -> None:
    host = session.host
    run = RunBlock if host.views is None else RunViews
    in_place_of(block, "forward", run, session, index)
    if (layer := _last_layer(block)) is not None:
        before(layer, NoteBypass(session, index))
    if host.mask is not None and (attention := host.mask.module(block)) is not block:
        before(attention, AddMask(session, index))
    if host.attention is not None:
        in_place_of(host.attention.module(block), "forward", Attend, session, index)
    if host.bias is not None and (maker := host.bias.own(block)) is not None:
        in_place_of(maker, host.bias.method, MakeBias, session, index)


def _last_layer(block: nn.Module) -> nn.Module | None:
    """The last layer with weights in a block that torch.fx calls whole, as it does PyTorch's own.

    None in a block of PyTorch's own, which is called whole itself.
    """
    layers = [
        part
        for part in block.modules()
        if type(part).__module__.startswith("torch.nn.") and [*part.parameters(recurse=False)]
    ]
    return None if not layers or block in layers else layers[-1]


def _hook_head(session: Session, head: TokenHead) -> None:
    for index, block in enumerate(head.blocks):
        before(block, EnterHeadBlock(session, index, head.queries))
        before(block, AddHeadMask(session))
    after(head.last, LeaveHead(session, queries=0, with_delta=False))
    if head.blocks:
        after(head.blocks[-1], LeaveHead(session, head.queries, with_delta=True))


def adopt(model: nn.Module, old: Session, new: Session) -> bool:
    """Have the hooks of one session act for another, in their places; False where they do not fit.

    Calls that run end as they began.
    """
    if type(old) is not Session or type(new) is not Session or not _fits(old.host, new.host):
        return False
    new.store = old.store
    for thing in everything(model):
        if getattr(thing, "session", None) is old:
            thing.session = new
    return True


def _fits(one: Host, other: Host) -> bool:
    """Whether two hosts are of the same modules, found in the same way."""
    return one is other or (one.family == other.family and _modules(one) == _modules(other))


def _modules(host: Host) -> tuple[nn.Module | None, ...]:
    mask = None if host.mask is None else host.mask.module(host.blocks[0])
    return (host.model, host.backbone, host.embedding, host.pooled, mask, *host.blocks)


def find_sessions(model: nn.Module) -> Iterator[Session]:
    """The sessions in force whose host is inside `model`."""
    return (session for session in sessions_in_place(model) if session.is_on)


def sessions_in_place(model: nn.Module) -> Iterator[Session]:
    """These, and those that are over while a call still ends with them."""
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, EnterModel) and hook.is_whole:
                yield hook.session
