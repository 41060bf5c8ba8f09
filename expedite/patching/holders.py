"""What is no model but holds one: a pipeline of transformers, the predictors of SAM and SAM 2."""

from torch import nn

from expedite.errors import ExpediteError


def module_of(holder: object) -> nn.Module:
    """The model that was given, or the one in the attribute `model` of what was given.

    Raises:
        ExpediteError: It is neither a module nor holds one there.

    Example:
        >>> module_of(nn.ReLU())
        ReLU()
    """
    held = holder if isinstance(holder, nn.Module) else getattr(holder, "model", None)
    if not isinstance(held, nn.Module):
        raise ExpediteError(
            f"a {type(holder).__module__}.{type(holder).__qualname__} was given, which is no "
            "torch.nn.Module and holds none as `model`; a module works, and so does a pipeline of "
            "transformers around one"
        )
    return held
