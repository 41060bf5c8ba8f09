"""How many of timm's names with attention are taken, by the file that they are in."""

from collections.abc import Iterator
from dataclasses import dataclass

import timm
import torch
from rich.progress import track

import expedite
from expedite.patching.describing import the_host

# timm's files of models whose blocks attend, convolutions among them or not.
_NAMES = """
beit cait coat convit crossvit davit deepseek_vit deit edgenext efficientformer
efficientformer_v2 efficientvit_mit efficientvit_msra eva fastvit focalnet gcvit gemma4_vit
hiera hieradet_sam2 levit maxxvit mobilevit mvitv2 naflexvit nest nextvit pit pvt_v2 qwen3_vit
shvit swiftformer swin_transformer swin_transformer_v2 swin_transformer_v2_cr tiny_vit tnt twins
visformer vision_transformer vision_transformer_hybrid vision_transformer_relpos
vision_transformer_sam vitamin volo xcit
"""
FILES = _NAMES.split()


@dataclass(frozen=True)
class File:
    """A file of timm's: its names, how many are taken, and why the first other is not."""

    name: str
    names: tuple[str, ...]
    taken: int
    why: str

    def __str__(self) -> str:
        return f"| {self.name} | {self.taken} of {len(self.names)} | {self.why} |"


def counts() -> str:
    """Lines for docs/hosts.md."""
    files = list(track(_files(), "timm", total=len(FILES)))
    taken, names = sum(file.taken for file in files), sum(len(file.names) for file in files)
    head = "| timm's file | taken | why others are not |\n|---|---|---|"
    return "\n".join([f"{taken} of {names} names are taken.", "", head, *map(str, files)])


def _files() -> Iterator[File]:
    for name in FILES:
        names = tuple(timm.list_models(module=name))
        refusals = [refusal for refusal in map(refused, names) if refusal]
        yield File(name, names, len(names) - len(refusals), refusals[0] if refusals else "")


def refused(name: str) -> str:
    """Why a model is refused, "" if it is taken; without weights or work."""
    try:
        with torch.device("meta"):
            model = timm.create_model(name)
    except NotImplementedError as error:  # some make numbers that the meta device does not have
        return f"not built: {error}"
    try:
        the_host(model)
    except expedite.ExpediteError as error:
        return str(error).partition("; known are")[0]
    return ""
