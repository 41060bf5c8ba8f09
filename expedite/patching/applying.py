"""Patching a model in place, and taking the patch off again."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from operator import gt
from typing import Any, TypeVar

import torch
from torch import nn

from expedite.errors import ExpediteError
from expedite.operators.reconstruction import check_count
from expedite.patching.describing import the_hosts
from expedite.patching.holders import module_of
from expedite.patching.hooks import adopt, find_sessions, install, sessions_in_place
from expedite.patching.host import Host
from expedite.patching.methods import take_off
from expedite.patching.ours import remove
from expedite.patching.session import BringsSession, Session
from expedite.plan import Method, Plan, make_plan

Model = TypeVar("Model")  # a module, or what holds one


def patch(
    model: Model,
    plan: Plan | None = None,
    *,
    alpha: int | None = None,
    clusters: int | tuple[int, int] | None = None,
    keep: float | None = None,
    beta: int | None = None,
    method: Method = "expedite",
    host: Host | None = None,
    **settings: Any,
) -> Model:
    """Make a model run some of its blocks on cluster tokens. Changes `model` in place.

    Parameters, buffers and state-dict keys stay as they are; `unpatch` takes everything back. A
    model that is patched already is patched anew. Compiled code is dropped (of every model: a
    compiled graph does not notice new hooks), so the next call of a compiled model compiles again.

    Args:
        model: A model of a known family, or one that contains it (DDP, a compiled module, ...), or
            what holds such a model as `model`: a `pipeline` of transformers, a predictor of SAM.
            Several hosts of one family and depth in it (DepthPro's) are patched together.
        plan: What to do; or give `alpha` and `clusters` (or `keep`) for a plan of one span.
        alpha: How many blocks run at full resolution first.
        clusters: The cluster grid, rows first; an int n means n×n.
        keep: In place of clusters, the share of tokens to keep.
        beta: How many blocks run on clusters; None for all that remain.
        method: "paper" starts from the published operators in place of the defaults.
        host: Says where blocks and tokens are in a model of no known family, see docs/hosts.md.
        settings: Other fields of `Plan`.

    Returns:
        What was given.

    Raises:
        ExpediteError: No known host is inside, or the plan cannot be carried out on it.

    Example:
        >>> import timm, torch, expedite
        >>> model = timm.create_model("vit_tiny_patch16_224").eval()
        >>> expedite.patch(model, alpha=4, clusters=7)(torch.zeros(1, 3, 224, 224)).shape
        torch.Size([1, 1000])
    """
    plan = _plan(plan, alpha, clusters, keep, beta, method, settings)
    module = module_of(model)
    hosts = [host] if host else [found for _, found in the_hosts(module)]
    for found in hosts:
        _check_fit(plan, found)
    _put(module, [_session(found, plan) for found in hosts])
    return model


def _session(host: Host, plan: Plan) -> Session:
    return plan.session(host) if isinstance(plan, BringsSession) else Session(host, plan)


def unpatch(model: Model) -> Model:
    """Make a model the one it was before `patch`, in place. A model not patched stays as it is.

    What others put on it since stays. Calls that run in other threads end as they began; what they
    need is taken off behind the last of them.

    Example:
        >>> import timm, expedite
        >>> model = timm.create_model("vit_tiny_patch16_224")
        >>> expedite.describe(expedite.unpatch(expedite.patch(model, alpha=4, clusters=7))).plan
    """
    module = module_of(model)
    sessions = list(sessions_in_place(module))
    for session in sessions:
        session.is_on, session.is_leaving = False, True
        take_off(session)
    if not any(session.is_leaving for session in sessions):
        remove(module)
    return model


@contextmanager
def patched(model: Model, plan: Plan | None = None, **arguments: Any) -> Iterator[Model]:
    """Patch a model for the time of a `with` block; afterwards it is patched as it was before.

    Args:
        model: As for `patch`.
        plan: As for `patch`.
        arguments: The other arguments of `patch`.

    Example:
        >>> import timm, expedite
        >>> model = timm.create_model("vit_tiny_patch16_224")
        >>> with expedite.patched(model, alpha=4, clusters=7):
        ...     expedite.describe(model).plan.spans[0].clusters
        (7, 7)
    """
    module = module_of(model)
    before = list(find_sessions(module))
    patch(model, plan, **arguments)
    try:
        yield model
    finally:
        if before:
            _put(module, before)
        else:
            unpatch(model)


def _put(model: nn.Module, sessions: Sequence[Session]) -> None:
    """Let sessions be those that a model is patched with, each for a host."""
    in_place = list(sessions_in_place(model))
    is_same = len(in_place) == len(sessions)
    if not is_same or not all(map(partial(adopt, model), in_place, sessions)):
        remove(model)
        for session in sessions:
            install(session)
    _forget_compiled_code()


def _plan(
    plan: Plan | None,
    alpha: int | None,
    clusters: int | tuple[int, int] | None,
    keep: float | None,
    beta: int | None,
    method: Method,
    settings: dict[str, Any],
) -> Plan:
    given = {"alpha": alpha, "clusters": clusters, "keep": keep, "beta": beta, **settings}
    extra = [name for name, value in given.items() if value is not None]
    if plan is not None:
        if extra or method != "expedite":
            raise ExpediteError(
                f"a plan was given together with {', '.join(extra) or 'a method'}; give either a "
                "Plan, which says everything, or alpha and clusters with their settings"
            )
        return plan
    if alpha is None:
        raise ExpediteError("no alpha was given; give alpha and clusters (or keep), or a Plan")
    return make_plan(alpha, clusters, keep=keep, beta=beta, method=method, **settings)


def _check_fit(plan: Plan, host: Host) -> None:
    ranges = plan.ranges(host.depth)
    for _, first, _ in ranges:
        _check_start(host, first)
    takes_mass = host.mask is not None or host.attention is not None or host.run is not None
    if plan.log_mass and not takes_mass:
        raise ExpediteError(
            f"log_mass=True was asked of a {host.family} whose attention takes no mask; "
            "log_mass=False works, and so does another attn_implementation"
        )
    if plan.reconstruct_at == "head":
        _check_head_exit(host, ranges[-1][2])
    whole = host.windows or host.grids(host.usual_grid)
    for above, cells in plan.grids(host.depth, *whole):
        # A model for any size meets its grid when it runs; clusters of clusters are known now.
        is_known = above not in whole or host.window or not host.any_size
        if is_known and any(map(gt, cells, above)):
            where = " in a window" if host.window else ""
            raise ExpediteError(
                f"{cells[0]}×{cells[1]} clusters were asked where the {host.family} has "
                f"{above[0]}×{above[1]} tokens{where}; each side can have from 1 to as many"
            )
        check_count(plan.k, cells)


def _check_start(host: Host, first: int) -> None:
    """Refuse a span that begins with a block which runs on all tokens."""
    if host.views is not None and first < host.views.first:
        raise ExpediteError(
            f"alpha={first} was asked of a {host.family}, whose views take their order before "
            f"block {host.views.first + 1}; alpha can be {host.views.first} or more"
        )
    if not host.stages or not host.stages[host.stage_of(first)].is_whole:
        return
    ends = list(accumulate(stage.depth for stage in host.stages))
    rows = [
        f"{end - stage.depth} to {end - 1}" if stage.depth > 1 else f"{end - 1}"
        for stage, end in zip(host.stages, ends, strict=True)
        if not stage.is_whole
    ]
    raise ExpediteError(
        f"alpha={first} was asked of a {host.family}, whose block {first + 1} leads to the next "
        f"stage and runs on all tokens; alpha can be {', '.join(rows)}"
    )


def _check_head_exit(host: Host, end: int) -> None:
    if host.head is None:
        raise ExpediteError(
            f"reconstruct_at='head' was asked of a {host.family}, whose head does not work token "
            "by token; 'backbone' works"
        )
    if end != len(host.blocks):
        raise ExpediteError(
            f"reconstruct_at='head' was asked of a span that ends after block {end} of "
            f"{len(host.blocks)}; it must run to the last block, so leave beta out"
        )


def _forget_compiled_code() -> None:
    # Dynamo guards on hooks only where it saw some: code compiled before would run on unpatched.
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
