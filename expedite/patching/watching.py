"""Who sees what blocks put out besides the model's own code: other people's hooks."""

import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules import module as _torch_module

from expedite.patching.host import Host, nothing_more
from expedite.patching.ours import Ours
from expedite.patching.weak import Weak

# Whose hooks read no tokens: fvcore's and PyTorch's own count, shard and the like. Recorders of
# transformers stay in place once they were used, and are asked whether they record.
_KNOWN_HOOKS = ("transformers.", "fvcore.", "torch.")
_RECORDER = "transformers.utils.output_capturing"

# By a key of its own each, as modules keep them: what holds these keeps no module alive.
Hooks = dict[int, Any]


class Watch:
    """The hooks by which what a block puts out can be seen.

    A hook after a block sees it, one before the next block, and those of modules that begin or end
    with either. What the last block puts out passes everything behind it.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        # Other hosts say themselves which of the states that are recorded anybody reads.
        self.asks_recorders = host.reads is nothing_more
        self._look()

    def _look(self) -> None:
        held, behind = list(_holders(self.host)), list(_behind(self.host))
        count = len(self.host.blocks)
        self.after: list[list[Hooks]] = [
            [module._forward_hooks for module, _, last in held if last == index]
            + [module._forward_pre_hooks for module, first, _ in held if first == index + 1]
            for index in range(count)
        ]
        for module in behind:
            self.after[-1] += [module._forward_pre_hooks, module._forward_hooks]
        self.watched = [Weak(module) for module in (*(module for module, _, _ in held), *behind)]

    def look_again(self) -> None:
        """See the modules that stand in place of others by now, as quantised layers do."""
        if any(module.is_gone for module in self.watched):
            self._look()

    def is_read(self, index: int, block: nn.Module) -> bool:
        """Whether somebody sees what block `index` puts out before the next one runs."""
        if _sees_everything() or (self.asks_recorders and self.is_recorded(block, index)):
            return True
        return any(_has_readers(hooks) for hooks in self.after[index])

    def is_recorded(self, block: nn.Module, index: int) -> bool:
        """Whether transformers records hidden states now, block `index`'s output among them."""
        recorders = [hook for hook in block._forward_hooks.values() if _is_recorder(hook)]
        if not recorders:
            return False
        collected = sys.modules[_RECORDER]._active_collector.get()
        if collected is None or "hidden_states" not in collected:
            return False
        wanted = collected.get("_hidden_states_layers")
        return wanted is None or index + 1 in wanted


def _holders(host: Host) -> Iterator[tuple[nn.Module, int, int]]:
    """Modules that hold blocks or are one, with the first and the last of them."""
    number = {id(block): index for index, block in enumerate(host.blocks)}
    inside = {
        id(part) for block in host.blocks for part in block.modules() if id(part) not in number
    }
    for module in host.model.modules():
        if module is host.model or id(module) in inside:
            continue
        found = [number[id(part)] for part in module.modules() if id(part) in number]
        if found:
            yield module, min(found), max(found)


def _behind(host: Host) -> Iterator[nn.Module]:
    """Modules of the backbone that may run behind its blocks, as far as can be told."""
    before = {id(part) for part in host.embedding.modules()}
    blocks = {id(part) for block in host.blocks for part in block.modules()}
    for module in host.backbone.modules():
        holds = any(id(part) in blocks for part in module.modules())
        if not holds and id(module) not in before:
            yield module


def _sees_everything() -> bool:
    """Whether other people's hooks run on all modules there are."""
    return _has_readers(_torch_module._global_forward_hooks) or _has_readers(
        _torch_module._global_forward_pre_hooks
    )


def _has_readers(hooks: Hooks) -> bool:
    return any(
        not isinstance(hook, Ours) and not _module_of(hook).startswith(_KNOWN_HOOKS)
        for hook in hooks.values()
    )


def _is_recorder(hook: Any) -> bool:
    return not isinstance(hook, Ours) and _module_of(hook) == _RECORDER


def _module_of(hook: Any) -> str:
    while isinstance(hook, partial):
        hook = hook.func
    return str(getattr(hook, "__module__", type(hook).__module__))
