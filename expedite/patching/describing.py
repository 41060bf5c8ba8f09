"""Saying which host is inside a model, what is patched there, and how many tokens stay."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.operators.windows import clustered, filled
from expedite.patching.families import family_names, find_hosts, reasons
from expedite.patching.holders import module_of
from expedite.patching.hooks import find_sessions
from expedite.patching.host import Host
from expedite.patching.session import Session
from expedite.patching.unknown import explain
from expedite.plan import Plan


@dataclass(frozen=True)
class Description:
    """What `describe` found; prints as a few lines of text."""

    family: str
    path: str  # of the host inside the model that was described
    blocks: int
    grid: tuple[int, int]
    window: tuple[int, int] | None  # of hosts whose windows are clustered each alone
    any_size: bool
    prefix_tokens: int
    taps: str
    head_exit: bool
    plan: Plan | None
    kept: tuple[tuple[int, int], ...]  # the cluster grid of every span, empty where not patched
    spans: tuple[str, ...]  # a line on every span
    ran: tuple[int | None, ...] = ()  # on how many tokens each block last ran since it was patched
    others: tuple["Description", ...] = ()  # of the hosts that stand beside it and are its like

    def __str__(self) -> str:
        return "\n".join([self._alone(), *map(str, self.others)])

    def _alone(self) -> str:
        height, width = self.grid
        size = "any size, usually " if self.any_size else ""
        where = f" at '{self.path}'" if self.path else ""
        window = f"windows of {self.window[0]}×{self.window[1]}, " if self.window else ""
        lines = [
            f"{self.family}{where}: {self.blocks} blocks, grid {size}{height}×{width}, "
            f"{window}{self.prefix_tokens} prefix tokens",
            f"taps: {self.taps}; reconstruct_at: backbone{' or head' if self.head_exit else ''}",
        ]
        ran = [_last_run(self.ran)] if any(self.ran) else []
        return "\n".join([*lines, *(self.spans or ["not patched"]), *ran])


@dataclass(frozen=True)
class _Kept:
    """What a span leaves of the tokens; prints as one line."""

    first: int  # the index of its first block
    end: int
    grid: tuple[int, int]  # of tokens, in its stage where there are stages
    clusters: tuple[int, int]
    cells: tuple[int, int] | None  # clusters of a window, of hosts with windows

    def __str__(self) -> str:
        (h, w), tokens = self.clusters, self.grid[0] * self.grid[1]
        windows = f" in windows of {self.cells[0]}×{self.cells[1]}" if self.cells else ""
        return (
            f"blocks {self.first + 1} to {self.end} run on {h}×{w} clusters{windows}, "
            f"{h * w} of {tokens} tokens ({h * w / tokens:.1%})"
        )


def describe(model: object, grid: tuple[int, int] | None = None) -> Description:
    """Say which host is inside a model, what is patched now, and how many tokens stay.

    Args:
        model: As for `patch`.
        grid: The grid of tokens (H, W) to say it for; None takes the model's usual one.

    Raises:
        ExpediteError: No known host is inside.

    Example:
        >>> import timm, expedite
        >>> model = timm.create_model("vit_tiny_patch16_224")
        >>> print(expedite.describe(expedite.patch(model, alpha=4, clusters=7)))
        timm VisionTransformer: 12 blocks, grid 14×14, 1 prefix tokens
        taps: read through forward_intermediates; reconstruct_at: backbone
        blocks 5 to 12 run on 7×7 clusters, 49 of 196 tokens (25.0%)
    """
    module = module_of(model)
    hosts, sessions = the_hosts(module), list(find_sessions(module))
    if len(hosts) == 1:
        return _described(*hosts[0], sessions[:1], grid)
    first, *others = (
        _described(path, host, [s for s in sessions if s.host.model is host.model], grid)
        for path, host in hosts
    )
    return replace(first, others=tuple(others))


def _described(
    path: str, host: Host, sessions: Sequence[Session], grid: tuple[int, int] | None
) -> Description:
    """One host, with the session that it is patched with, if any."""
    plan = sessions[0].plan if sessions else None
    grid = grid or host.usual_grid
    spans = list(_spans(plan, host, grid)) if plan else []
    calibrated = f", calibrated by {plan.calibration}" if plan and plan.calibration else ""
    return Description(
        family=host.family,
        path=path,
        blocks=len(host.blocks),
        grid=grid,
        window=host.window,
        any_size=host.any_size,
        prefix_tokens=host.prefix_tokens,
        taps=host.taps,
        head_exit=host.head is not None,
        plan=plan,
        kept=tuple(span.clusters for span in spans),
        spans=tuple(f"{span}{calibrated}" for span in spans),
        ran=tuple(sessions[0].ran) if sessions else (),
    )


def _last_run(ran: Sequence[int | None]) -> str:
    """On how many tokens blocks last ran, in rows of blocks that ran on as many."""
    parts = []
    for count, row in groupby(enumerate(ran, 1), key=lambda numbered: numbered[1]):
        first, *_, last = (number for number, _ in [*row] * 2)
        blocks = f"block {first}" if first == last else f"blocks {first} to {last}"
        parts.append(f"{blocks} on {count} tokens" if count else f"{blocks} not at all")
    return f"last run: {', '.join(parts)}"


def grid_of(model: nn.Module, images: Tensor) -> tuple[int, int]:
    """The grid of tokens (H, W) that a host inside `model` makes of `images`, by running it."""
    _, host = the_host(model)
    grids: list[tuple[int, int]] = []
    handle = host.embedding.register_forward_hook(
        lambda module, args, output: grids.append(host.grid(module, args, output))
    )
    try:
        with torch.inference_mode():
            model(images)
    finally:
        handle.remove()
    return grids[0]


def _spans(plan: Plan, host: Host, grid: tuple[int, int]) -> Iterator[_Kept]:
    grids = host.grids(grid)
    clusters: tuple[int, int] | None = None
    steps = plan.grids(host.depth, *(host.windows or grids))
    for (_, first, end), (above, cells) in zip(plan.ranges(host.depth), steps, strict=True):
        stage = host.stage_of(first)
        if host.window is None:
            yield _Kept(first, end, grids[stage], cells, None)
            continue
        is_chained = clusters is not None and above != host.windows[stage]
        tokens = clusters if clusters is not None and is_chained else grids[stage]
        is_filled = plan.window_padding and not is_chained and cells != above
        clusters = clustered(filled(tokens, above) if is_filled else tokens, above, cells)
        yield _Kept(first, end, grids[stage], clusters, cells)


def the_host(model: nn.Module) -> tuple[str, Host]:
    """The one host inside a model, with its path.

    Raises:
        ExpediteError: There is none, or more than one.
    """
    hosts = the_hosts(model)
    if len(hosts) > 1:
        raise ExpediteError(f"{_told(hosts)}, where one is looked at; give a part that holds one")
    return hosts[0]


def the_hosts(model: nn.Module) -> list[tuple[str, Host]]:
    """The hosts inside a model, with their paths: one, or several that a plan means the same in.

    Raises:
        ExpediteError: There is none, or several of several kinds.
    """
    hosts = list(find_hosts(model)) or [
        (path, session.host)
        for session in find_sessions(model)
        for path, module in model.named_modules()
        if module is session.host.model
    ]
    if not hosts:
        raise ExpediteError(explain(model, family_names(), reasons()))
    if len({(host.family, host.depth, host.windows) for _, host in hosts}) > 1:
        raise ExpediteError(f"{_told(hosts)}, of several kinds or depths; patch one of them")
    return hosts


def the_session(model: nn.Module) -> Session:
    """The one session with which a model is patched.

    Raises:
        ExpediteError: Several hosts in it are patched, or none.
    """
    sessions = list(find_sessions(model))
    if len(sessions) != 1:
        raise ExpediteError(
            f"{len(sessions)} hosts are patched in a model of which one is looked at; patch one"
        )
    return sessions[0]


def _told(hosts: Sequence[tuple[str, Host]]) -> str:
    return f"{len(hosts)} hosts were found, at {', '.join(repr(path) for path, _ in hosts)}"
