"""Which graph, if any, PyTorch makes of the operations that run."""

import torch
from torch import Tensor


def is_exporting() -> bool:
    """Whether it is to be exported.

    Not by `torch.compiler.is_exporting`, which some versions (2.11 for one) compile to True.
    """
    return torch.compiler._is_exporting_flag


def varies_in_export(*sizes: int) -> bool:
    """Whether any of these sizes is left open by the graph that is to be exported."""
    # In graphs that Dynamo makes guards see to it.
    is_guarded = torch.compiler.is_dynamo_compiling()
    return is_exporting() and not is_guarded and any(isinstance(n, torch.SymInt) for n in sizes)


def is_traced() -> bool:
    """Whether `torch.jit.trace` records them."""
    return torch._C._get_tracing_state() is not None


def is_captured() -> bool:
    """Whether a graph is made of a call, compiled or traced."""
    return torch.compiler.is_compiling() or is_traced()


def is_run_again() -> bool:
    """Whether a backward pass is under way, in which blocks run again that were checkpointed."""
    if torch.compiler.is_compiling():
        return False
    return bool(torch._C._current_graph_task_id() != -1)


def is_fake() -> bool:
    """Whether tensors have no values."""
    return type(torch.empty(0)) is not Tensor


def is_recorded() -> bool:
    """Whether operations are for a graph, or for shapes alone, in place of values at once."""
    return is_captured() or is_fake()


def is_plain(values: Tensor) -> bool:
    """Whether operations run one by one on a CPU, where how many there are may depend on values."""
    return values.device.type == "cpu" and not is_recorded() and not is_transformed()


def is_transformed() -> bool:
    """Whether a transform of `torch.func` runs them, such as vmap."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None
