"""What files say of models, plans and settings in YAML, and one sentence where it cannot be."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from expedite.errors import ExpediteError, MisfitError, first_line

if TYPE_CHECKING:
    from torch import Tensor


class _Loader(yaml.SafeLoader):
    """YAML's plain values, and tuples, which training code of PyTorch dumps."""

    def construct_tuple(self, node: yaml.Node) -> tuple[Any, ...]:
        if not isinstance(node, yaml.SequenceNode):
            raise yaml.constructor.ConstructorError(
                None, None, "a tuple is a sequence", node.start_mark
            )
        return tuple(self.construct_sequence(node, deep=True))


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _Loader.construct_tuple)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping."""
    if not path.is_file():
        raise ExpediteError(f"settings were asked from {path}, which is not a file")
    content = read_yaml_value(path)
    if not isinstance(content, dict):
        raise ExpediteError(f"{path} holds {type(content).__name__}, not a mapping of settings")
    return content


def parse_yaml(text: str, origin: Path | str) -> Any:
    """The value that a text in YAML stands for; tuples are the only objects of Python in it.

    Raises:
        ExpediteError: It is not readable; `origin` names it.

    Example:
        >>> parse_yaml("!!python/tuple [512, 512]", "here")
        (512, 512)
    """
    try:
        return yaml.load(text, _Loader)
    except Exception as error:  # values that are none fail PyYAML in half a dozen ways
        raise ExpediteError(f"{origin} is not readable as YAML: {first_line(error)}") from error


def read_yaml_value(path: Path) -> Any:
    """What a YAML file holds; see `parse_yaml`."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ExpediteError(f"{path} is not readable as YAML: {first_line(error)}") from error
    return parse_yaml(text, path)


@contextlib.contextmanager
def describing(origin: Path, kind: str) -> Iterator[None]:
    """Say in one sentence that what a file says makes no model of a kind."""
    try:
        yield
    except MisfitError:  # of the weights
        raise
    except Exception as error:  # values of the wrong kind or size fail in a dozen ways
        is_ours = isinstance(error, ExpediteError)
        if is_ours and str(origin) in str(error):
            raise
        why = " ".join(str(error).split()) if is_ours else first_line(error)
        raise ExpediteError(f"{origin} does not describe a {kind}: {why}") from error


def refuse_too_many(blocks: int, state: "Mapping[str, Tensor]", origin: Path) -> None:
    """Refuse more blocks than there are weights, before any time goes into making them."""
    if blocks > len(state):
        raise ExpediteError(
            f"{origin} asks for {blocks} blocks, and there are {len(state)} weights beside it"
        )
