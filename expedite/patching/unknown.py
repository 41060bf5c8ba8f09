"""Why a model is no known host, in one sentence that says what would work."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from torch import nn
from torch.fx import GraphModule


@dataclass(frozen=True)
class _Stack:
    """Blocks of one class, one behind the other."""

    path: str
    kind: str
    count: int
    widths: tuple[int, ...]  # of each block in channels
    convolution: str  # where a block holds one over neighbours, "" where none does


def explain(
    model: nn.Module, known: Sequence[str], reasons: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Say that no known host is inside `model`, what is there instead, and what would work.

    Example:
        >>> explain(nn.ReLU(), ["a ViT"]).partition(", ")[2].partition(";")[0]
        'in which no blocks with attention were found'
    """
    found = f"no known host was found in {_class_name(model)}"
    names = f"known are {', '.join(known)}"
    others = "and host= says where blocks that map (B, N, C) to the same are in any other"
    if why := _reason(model, reasons):
        return f"{why}; {names}"
    if isinstance(model, GraphModule):
        return (
            f"{found}, a graph that torch.fx wrote of a model's operations, where blocks are not "
            f"called any more; {names}, and hooks on blocks read features of the model itself"
        )
    if _convolution(model, nn.Conv3d):
        return (
            f"{found}, which makes tokens of several frames in a way that is not known; "
            f"{names}, {others}"
        )
    stacks = list(_innermost(list(_stacks(model))))
    if not stacks and any(map(_is_block, list(model.modules())[1:])):
        return f"{found}, whose blocks with attention stand in no row; {names}, {others}"
    if not stacks:
        return f"{found}, in which no blocks with attention were found; {names}, {others}"
    longest = max(stacks, key=lambda stack: stack.count)
    stages = _stages(model, longest)
    if at := next((stack.convolution for stack in [longest, *stages] if stack.convolution), ""):
        return (
            f"{found}, whose blocks of class {longest.kind} hold a convolution over the map "
            f"('{at}'), for which clusters have no neighbours; {names}, and host= takes blocks "
            "without one"
        )
    if stages:
        return (
            f"{found}, whose blocks of class {longest.kind} come in stages{_channels(stages)}; "
            f"{names}, and host= takes blocks that are all of one width"
        )
    kind = "look like a ViT's, but the model is of no known family"
    if not any(isinstance(m, nn.Linear) for m in model.get_submodule(longest.path).modules()):
        kind = "work on maps, by convolutions"
    return (
        f"{found}: its {longest.count} blocks of class {longest.kind} at '{longest.path}' {kind}; "
        f"{names}, {others}"
    )


def _reason(model: nn.Module, reasons: Mapping[str, str]) -> str:
    """Why a model with a class of a name is refused; "" where there is none."""
    names = (base.__name__ for module in model.modules() for base in type(module).__mro__)
    return next((f"a {name} was found, {reasons[name]}" for name in names if name in reasons), "")


def _channels(stages: Sequence[_Stack]) -> str:
    """The widths of stages in words; nothing where those of some are not known."""
    widths = list(dict.fromkeys(width for stage in stages for width in stage.widths))
    if 0 in widths:
        return ""
    return f" of {', '.join(map(str, widths[:-1]))} and {widths[-1]} channels"


def _stacks(model: nn.Module, least: int = 2) -> Iterator[_Stack]:
    for path, module in model.named_modules():
        children = list(module.children())
        kinds = {type(child) for child in children}
        if len(children) >= least and len(kinds) == 1 and all(map(_is_block, children)):
            widths = tuple(_width(child) for child in children)
            at = next(filter(None, (_convolution(child, nn.Conv2d) for child in children)), "")
            yield _Stack(path, _kind(children[0]), len(children), widths, at)


def _convolution(model: nn.Module, kind: type[nn.Conv2d | nn.Conv3d]) -> str:
    """The path of the first convolution of a kind that looks at more than one place, or ""."""
    convolutions = ((path, m) for path, m in model.named_modules() if isinstance(m, kind))
    return next((path for path, m in convolutions if max(m.kernel_size) > 1), "")


def _kind(block: nn.Module) -> str:
    """The class of a block; of its parts, where it is a row of them."""
    parts = block.children() if isinstance(block, nn.Sequential) else [block]
    return " and ".join(dict.fromkeys(map(_class_name, parts)))


def _is_block(module: nn.Module) -> bool:
    """Whether a module holds attention, a norm, and layers besides the attention's own."""
    attends = layers = norms = False
    for path, part in list(module.named_modules())[1:]:
        name = f"{path} {type(part).__name__}".lower()
        in_attention = "attn" in name or "attention" in name
        # Without weights it holds the place of attention that others of its class have.
        attends |= in_attention and any(True for _ in part.parameters())
        layers |= not in_attention and isinstance(part, (nn.Linear, nn.Conv2d))
        norms |= "norm" in type(part).__name__.lower() and any(True for _ in part.parameters())
    return attends and layers and norms


def _width(block: nn.Module) -> int:
    """The channels of a block's first norm over tokens or of its own; 0 where it has none."""
    own = set(block.children())
    for part in block.modules():
        is_norm = "norm" in type(part).__name__.lower()
        weights = [weight for weight in part.parameters(recurse=False) if weight.dim() == 1]
        if is_norm and weights and (part in own or hasattr(part, "normalized_shape")):
            return weights[0].numel()
    return 0


def _innermost(stacks: Sequence[_Stack]) -> Iterator[_Stack]:
    """Stacks that are not made of others: blocks, where there are stages of blocks."""
    for stack in stacks:
        inside = f"{stack.path}." if stack.path else ""
        if not any(other is not stack and other.path.startswith(inside) for other in stacks):
            yield stack


def _stages(model: nn.Module, longest: _Stack) -> list[_Stack]:
    """A stack and its like, whose paths differ in a number; none if all are of one width."""

    def pattern(stack: _Stack) -> str:
        return re.sub(r"\d+", "#", stack.path)

    stages = [stack for stack in _stacks(model, 1) if pattern(stack) == pattern(longest)]
    stages = [stage for stage in stages if stage.kind == longest.kind]
    widths = {width for stage in stages for width in stage.widths}
    is_known = 0 not in widths
    return stages if len(widths) > 1 or (not is_known and len(stages) > 1) else []


def _class_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__name__}"
