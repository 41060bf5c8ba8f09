"""What blocks on clusters are called with, in place of what has the size of the full grid."""

from typing import Any

import torch
from torch import Tensor

from expedite.errors import ExpediteError
from expedite.patching.frame import Frame
from expedite.patching.host import Host, placed_in
from expedite.patching.key_bias import as_key_bias
from expedite.patching.positions.rotary import cluster_positions, rotate_behind

Arguments = tuple[Any, ...]


def unlisted(host: Host, args: Arguments) -> Arguments:
    """Arguments without the lists of one in which some blocks take them.

    Raises:
        ExpediteError: A list holds the tokens of several images, whose grids differ.
    """
    if len(args[0]) != 1:
        raise ExpediteError(
            f"a block of the {host.family} was called with a list of {len(args[0])} tensors of "
            "tokens, and one grid is clustered at a time; call the model once for each size"
        )
    return tuple(arg[0] if isinstance(arg, list) else arg for arg in args)


def with_mask(
    host: Host, frame: Frame, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of a block's attention by which clusters weigh by their mass, where they do."""
    slot, mask = host.mask, frame.mask
    if slot is not None and frame.query_mask is not None and not frame.keeps_every_token:
        return placed_in(args, kwargs, slot.argument, slot.position, frame.query_mask)
    if slot is None or frame.keeps_every_token:
        return args, kwargs
    if mask is None and slot.find(args, kwargs) is None:
        return args, kwargs
    if mask is not None and mask.shape[0] == 0:  # PyTorch cannot mask an empty batch
        return args, kwargs
    if mask is not None and args and mask.shape[0] > args[0].shape[0]:
        # Windows that stand behind one another in a batch attend to each other here.
        mask = mask.reshape(args[0].shape[0], *mask.shape[1:3], -1)
    if mask is not None:
        mask = mask[:, 0, 0] if slot.over == "keys" else as_key_bias(mask)
    return placed_in(args, kwargs, slot.argument, slot.position, mask)


def of_full_grid(host: Host, frame: Frame, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a block got a mask, or anything else that has the size of the grid.

    What has one number for each image, such as the index of a data set, has not.
    """
    if host.hands_masks:
        return False
    positions = host.rotary.find(args, kwargs) if host.rotary else None
    others = [*args[1:], *kwargs.values()]
    replaced = [positions, frame.shared_bias, _made_for_export(host, frame, args, kwargs)]
    replaced += positions if isinstance(positions, tuple) else ()
    if host.mask is not None and (frame.query_mask is not None or _has_shared_bias(frame)):
        replaced.append(host.mask.find(args, kwargs))
    unknown = [value for value in others if not any(value is known for known in replaced)]
    of_tokens = [value for value in unknown if isinstance(value, Tensor) and value.dim() > 1]
    return len(of_tokens) > 0 or bool(kwargs.get("is_causal"))


def _has_shared_bias(frame: Frame) -> bool:
    """Whether blocks are given the model's bias alone, maybe a copy of it (FSDP makes some)."""
    return frame.shared_bias is not None and not frame.masked


def _made_for_export(
    host: Host, frame: Frame, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor | None:
    """The mask that the library made of itself while a graph is exported."""
    slot = host.mask
    if frame.masked or slot is None or not slot.made_for_exports:
        return None
    mask = slot.find(args, kwargs)
    shared = frame.shared_bias is not None  # which such a mask was added to
    is_it = isinstance(mask, Tensor) and (shared or mask.dtype == torch.bool)
    return mask if is_it and torch.compiler.is_compiling() else None


def with_positions(
    host: Host, frame: Frame, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of a block with rotary positions of the clusters in place of the tokens'."""
    rotary = host.rotary
    table = None if rotary is None else rotary.find(args, kwargs)
    if rotary is None or table is None or frame.keeps_every_token:
        return args, kwargs
    if frame.positions is None or rotary.of_each:
        assert frame.grid is not None  # or there were no frame
        sin, cos = rotary.split(table)
        if host.packing is not None:  # a row for each token of every image, whose grids are alike
            sin, cos = (host.packing.open(rows, frame.grid, True)[0] for rows in (sin, cos))
        places = cluster_positions(frame.records, frame.grid, sin.device)
        turned = rotate_behind(rotary.prefix, sin, cos, frame.grid, places)
        frame.positions = rotary.join(*turned)
    return rotary.place(args, kwargs, frame.positions)
