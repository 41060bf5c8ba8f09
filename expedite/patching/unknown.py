"""Why a model is no known host, in one sentence that says what would work."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class _Stack:
    """Blocks of one class, one behind the other."""

    path: str
    kind: str
    count: int
    widths: tuple[int, ...]  # of each block in channels


def explain(model: nn.Module, known: Sequence[str]) -> str:
    """Say that no known host is inside `model`, what is there instead, and what would work.

    Example:
        >>> explain(nn.ReLU(), ["a ViT"]).partition(", ")[2].partition(";")[0]
        'which has no blocks with attention'
    """
    found = f"no known host was found in {_class_name(model)}"
    names = f"known are {', '.join(known)}"
    others = "and host= says where blocks that map (B, N, C) to the same are in any other"
    stacks = list(_innermost(list(_stacks(model))))
    if not stacks:
        return f"{found}, which has no blocks with attention; {names}, {others}"
    longest = max(stacks, key=lambda stack: stack.count)
    if widths := _widths_of_stages(stacks, longest):
        return (
            f"{found}, whose blocks of class {longest.kind} come in stages of "
            f"{', '.join(map(str, widths[:-1]))} and {widths[-1]} channels; {names}, and host= "
            "takes blocks that are all of one width"
        )
    return (
        f"{found}: its {longest.count} blocks of class {longest.kind} at '{longest.path}' look "
        f"like a ViT's, but the model is of no known family; {names}, {others}"
    )


def _stacks(model: nn.Module) -> Iterator[_Stack]:
    for path, module in model.named_modules():
        children = list(module.children())
        kinds = {type(child) for child in children}
        if len(children) > 1 and len(kinds) == 1 and all(map(_is_block, children)):
            widths = tuple(_width(child) for child in children)
            yield _Stack(path, _class_name(children[0]), len(children), widths)


def _is_block(module: nn.Module) -> bool:
    """Whether a module holds attention, a norm, and layers besides the attention's own."""
    attends = layers = False
    for path, part in list(module.named_modules())[1:]:
        name = f"{path} {type(part).__name__}".lower()
        in_attention = "attn" in name or "attention" in name
        attends |= in_attention
        layers |= not in_attention and isinstance(part, (nn.Linear, nn.Conv2d))
    return attends and layers and _width(module) > 0


def _width(block: nn.Module) -> int:
    """The channels of the first norm that has weights."""
    norms = (part for part in block.modules() if "norm" in type(part).__name__.lower())
    return next((weight.numel() for norm in norms for weight in norm.parameters()), 0)


def _innermost(stacks: Sequence[_Stack]) -> Iterator[_Stack]:
    """Stacks that are not made of others: blocks, where there are stages of blocks."""
    for stack in stacks:
        inside = f"{stack.path}." if stack.path else ""
        if not any(other is not stack and other.path.startswith(inside) for other in stacks):
            yield stack


def _widths_of_stages(stacks: Sequence[_Stack], longest: _Stack) -> list[int]:
    """The widths in a stack and its like, whose paths differ in a number; none if all are one."""

    def pattern(stack: _Stack) -> str:
        return re.sub(r"\d+", "#", stack.path)

    stages = [stack for stack in stacks if pattern(stack) == pattern(longest)]
    widths = list(dict.fromkeys(width for stage in stages for width in stage.widths))
    return widths if len(widths) > 1 else []


def _class_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__name__}"
