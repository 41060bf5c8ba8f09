"""What a model gives, as tensors with names and in containers that any program can read."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from expedite.errors import ExpediteError


def named(output: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of an output with its name: keys and places, joined by dots.

    Raises:
        ExpediteError: Something else is in it.

    Example:
        >>> import torch
        >>> [name for name, _ in named({"maps": (torch.zeros(1), torch.zeros(1))})]
        ['maps.0', 'maps.1']
    """
    if isinstance(output, Tensor):
        yield name or "output", output
    elif isinstance(output, (Mapping, list, tuple)):
        for key, value in _items(output):
            yield from named(value, f"{name}.{key}" if name else str(key))
    elif output is not None:
        where = f" at '{name}'" if name else ""
        raise ExpediteError(
            f"a {type(output).__name__} was found in the model's output{where}; tensors in tuples, "
            "lists and dicts can be exported"
        )


class Plain(nn.Module):
    """A model whose output is made of plain dicts and tuples, which any program can read."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        return _plain(self.model(images))


def _plain(output: Any) -> Any:
    if isinstance(output, Mapping):
        return {key: _plain(value) for key, value in output.items() if value is not None}
    if isinstance(output, (list, tuple)):
        return tuple(_plain(value) for value in output)
    return output


def _items(output: Any) -> Iterator[tuple[Any, Any]]:
    yield from output.items() if isinstance(output, Mapping) else enumerate(output)
