"""How a plan is run beside what it is: in which dtype, and compiled or not."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

from expedite.errors import ExpediteError, first_line
from expedite.plan import Plan

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

DTYPES = ("float32", "bfloat16", "float16")
PLAIN = "none"
COMPILE_MODES = (PLAIN, "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


@dataclass(frozen=True)
class Mode:
    """A dtype and a way of compiling; rows are compared within one mode alone.

    Args:
        dtype: Of weights and images, one of `DTYPES`.
        compile: The mode of torch.compile, or "none" for the model as it is.

    Raises:
        ExpediteError: Either is not known.

    Example:
        >>> str(Mode()), str(Mode("bfloat16", "default"))
        ('', 'bfloat16 compile default')
    """

    dtype: str = "float32"
    compile: str = PLAIN

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ExpediteError(
                f"the dtype '{self.dtype}' was asked; {', '.join(DTYPES)} are known"
            )
        if self.compile not in COMPILE_MODES:
            raise ExpediteError(
                f"compiling in mode '{self.compile}' was asked; {', '.join(COMPILE_MODES)} are "
                "known"
            )

    def __str__(self) -> str:
        """In what it differs from float32 and not compiled."""
        compiled = "" if self.compile == PLAIN else f"compile {self.compile}"
        return " ".join(filter(None, ["" if self.dtype == "float32" else self.dtype, compiled]))

    @property
    def torch_dtype(self) -> "torch.dtype":
        """The dtype itself."""
        import torch

        found: torch.dtype = getattr(torch, self.dtype)
        return found

    def compiled(self, model: "nn.Module") -> Callable[["Tensor"], Any]:
        """The model's call, compiled for each size of its input where that was asked.

        Raises:
            ExpediteError: When it is called: it cannot be compiled.
        """
        return model if self.compile == PLAIN else _Compiled(model, self.compile)


class Job(NamedTuple):
    """A plan with the mode that it is run in."""

    plan: Plan
    mode: Mode


def modes_of(dtypes: Iterable[str], compiles: Iterable[str]) -> list[Mode]:
    """Every combination."""
    return [Mode(dtype, compiled) for dtype, compiled in product(dtypes, compiles)]


def jobs_of(plans: Iterable[Plan], modes: Iterable[Mode] = (Mode(),)) -> list[Job]:
    """Every plan in every mode, one mode after the other."""
    return [Job(plan, mode) for mode, plan in product(modes, list(plans))]


class _Compiled:
    def __init__(self, model: "nn.Module", mode: str) -> None:
        import torch

        self.call = torch.compile(model, mode=mode, dynamic=False)
        self.mode = mode

    def __call__(self, images: "Tensor") -> Any:
        from torch._dynamo.exc import TorchDynamoException

        try:
            return self.call(images)
        except TorchDynamoException as error:
            cause: Exception = getattr(error, "inner_exception", error)
            raise ExpediteError(
                f"compiling in mode '{self.mode}' was asked and failed; 'none' runs the model as "
                f"it is: {first_line(cause)}"
            ) from error
