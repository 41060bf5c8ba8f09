"""What a patched model refuses to run on, said before anything is wrong."""

from math import prod
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.geometry.graphs import varies_in_export
from expedite.patching.host import Host


def check_call(host: Host, module: nn.Module) -> None:
    """Refuse ways of running a model in which what a patch keeps is lost."""
    if "_is_replica" in vars(module):
        raise ExpediteError(
            f"a patched {host.family} was run by torch.nn.DataParallel, whose replicas lose what a "
            "patch keeps; DistributedDataParallel works"
        )
    if torch._C._is_tracing() and torch.onnx.is_in_onnx_export():
        raise ExpediteError(
            f"torch.onnx.export with dynamo=False was asked of a patched {host.family}; "
            "expedite.export works, and so does dynamo=True"
        )


def check_tensor(host: Host, value: Any) -> None:
    """Refuse what torch.fx hands modules to take a model apart."""
    if not isinstance(value, Tensor):
        raise ExpediteError(
            f"a patched {host.family} was run on a {type(value).__name__}, as torch.fx does; take "
            "the unpatched model apart, or read features with hooks on blocks"
        )


def refuse_again(host: Host, index: int) -> NoReturn:
    """Refuse to run a block again on clusters that are not known."""
    raise ExpediteError(
        f"block {index} of the {host.family} is run again in the backward pass, where its clusters "
        "are not known; checkpoint the whole model, or its blocks by torch.utils.checkpoint"
    )


def refuse_head_again(host: Host) -> NoReturn:
    """Refuse to run blocks of the head again on clusters that are not known."""
    raise ExpediteError(
        f"a block of the head of a {host.family} is run again in the backward pass, where its "
        "clusters are not known; reconstruct_at='backbone' works, and so does a head that is not "
        "checkpointed"
    )


def refuse_reentrant(host: Host) -> NoReturn:
    """Refuse clusters through which gradients would have to flow and cannot."""
    raise ExpediteError(
        f"blocks of a patched {host.family} were checkpointed with use_reentrant=True one by one, "
        "where gradients would be wrong; use_reentrant=False works"
    )


def refuse_end(host: Host) -> NoReturn:
    """Refuse to return clusters where the full grid is due."""
    raise ExpediteError(
        f"a call of a {host.family} ended before the block after which the full grid returns; "
        "blocks changed after it was patched, so patch it again"
    )


def check_tokens(host: Host, index: int, body: Tensor, grid: tuple[int, int]) -> None:
    """Refuse to cluster in block `index` tokens (B, N, C) or a map that do not fill their grid."""
    if varies_in_export(*body.shape[1:], *grid):
        raise ExpediteError(
            f"a graph for images of any size was asked of a patched {host.family}, whose clusters "
            "are laid out for one; dynamic_shapes with the batch alone, and a file for each size, "
            "work"
        )
    if (count := prod(body.shape[1:-1])) != grid[0] * grid[1]:
        raise ExpediteError(
            f"block {index} of the {host.family} got {count} tokens on a grid of "
            f"{grid[0]}×{grid[1]}; clustering needs them all, so patch dropout must be off"
        )


def check_size(host: Host, index: int, grid: tuple[int, int]) -> None:
    """Refuse a map in block `index` of which a window does not fit into it."""
    window = host.windows[host.stage_of(index)]
    if grid[0] < window[0] or grid[1] < window[1]:
        raise ExpediteError(
            f"alpha={index} was asked of a {host.family} whose map there is {grid[0]}×{grid[1]}, "
            f"smaller than a window of {window[0]}×{window[1]}; a larger image or an earlier stage "
            "works"
        )


def check_weights(host: Host, first: int, end: int) -> None:
    """Refuse weights that are elsewhere until a module is called, where ours reads them."""
    if host.run is None and host.bias is None:
        return
    if any(next(block.parameters()).is_meta for block in host.blocks[first:end]):
        raise ExpediteError(
            f"blocks {first} to {end - 1} of a patched {host.family} were to run with offloaded "
            "weights, which are read there besides modules' own calls; a model whose weights stay "
            "on their device works"
        )
