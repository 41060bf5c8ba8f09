"""What was learned in closed form of one model at one α, from images without labels.

Nothing is trained and no weight is changed: two small tensors stand beside the model, in a file
that a plan names. `evaluate.calibrating` makes them.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from expedite.errors import ExpediteError, first_line
from expedite.operators.drift import SPREADS
from expedite.patching.host import Host

_KIND = "expedite calibration 1"
_TENSORS = ("metric", "drift", "weights")
# Signatures differ by less after a cast to half precision, by more after fine-tuning.
_SAME = 0.02
_COUNTED = 1 << 16  # of each weight


@dataclass(frozen=True, eq=False)
class Calibration:
    """In which directions tokens are alike for what follows, and how blocks take clusters wrongly.

    Args:
        alpha: Of the plans that it is for.
        metric: (C, D) float32. Distances between tokens are measured on what it makes of them,
            each without its mean and of unit variance.
        drift: (blocks, 3, C) float32. What is added to cluster tokens after each block from α on,
            for each of the numbers of `drift.spreads`.
        weights: (all blocks,) float64, by which the model is known, see `signature`.

    Example:
        >>> made = Calibration(3, torch.eye(4), torch.zeros(9, 3, 4), torch.ones(12).double())
        >>> made.metric.shape
        torch.Size([4, 4])
    """

    alpha: int
    metric: Tensor
    drift: Tensor
    weights: Tensor
    _elsewhere: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def save(self, path: Path | str) -> None:
        """Write it as safetensors, whole or not at all.

        Raises:
            ExpediteError: The file cannot be written.
        """
        tensors = {name: getattr(self, name).contiguous() for name in _TENSORS}
        partial = Path(path).with_name(f"{Path(path).name}.partial")
        try:
            save_file(tensors, partial, {"kind": _KIND, "alpha": str(self.alpha)})
            partial.replace(path)
        except (OSError, SafetensorError) as error:
            raise ExpediteError(
                f"a calibration was to be written to {path}: {first_line(error)}"
            ) from error

    @classmethod
    def load(cls, path: Path | str) -> "Calibration":
        """Read what `save` wrote.

        Raises:
            ExpediteError: The file is missing, damaged, or holds something else.
        """
        if not Path(path).is_file():
            raise ExpediteError(f"a calibration was asked from {path}, which is not a file")
        try:
            with safe_open(path, "pt") as file:
                about = file.metadata() or {}
                names = file.keys()
                tensors = {name: file.get_tensor(name) for name in names}
        except (OSError, SafetensorError, ValueError) as error:
            raise ExpediteError(
                f"{path} was asked for a calibration and cannot be read as safetensors: "
                f"{first_line(error)}"
            ) from error
        alpha = about.get("alpha", "")
        is_one = about.get("kind") == _KIND and alpha.isdecimal()
        if not (is_one and _fits_together(tensors, int(alpha))):
            raise ExpediteError(
                f"{path} was asked for a calibration and holds something else; "
                "`expedite calibrate` writes one"
            )
        return cls(int(alpha), *(tensors[name] for name in _TENSORS))

    def check(self, host: Host, alpha: int) -> None:
        """Refuse a model or an α that it was not made on.

        Raises:
            ExpediteError: It was made on another.
        """
        check_map(host)
        if alpha != self.alpha:
            raise ExpediteError(
                f"alpha={alpha} was asked with a calibration that was made for alpha={self.alpha}"
            )
        if not self._is_of(host):
            raise ExpediteError(
                f"a calibration was asked of a {host.family} whose weights are not those that it "
                "was made on; `expedite calibrate` makes one of them"
            )

    def _is_of(self, host: Host) -> bool:
        own = signature(host)
        return own.shape == self.weights.shape and bool((own - self.weights).abs().max() <= _SAME)

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The metric and the drift on a device."""
        if device not in self._elsewhere:
            self._elsewhere[device] = (self.metric.to(device), self.drift.to(device))
        return self._elsewhere[device]


def check_map(host: Host) -> None:
    """Refuse a host that there are no calibrations of.

    Raises:
        ExpediteError: Its tokens are not one map.
    """
    if host.window is not None or host.stages or host.views is not None:
        within = "views of a scene" if host.views else "windows"
        raise ExpediteError(
            f"a calibration was asked of a {host.family}, which clusters within {within}; one is "
            "for models whose tokens are one map"
        )


def signature(host: Host) -> Tensor:
    """A number for the weights of every block, (blocks,) float64, by which a model is known.

    A sum with random signs over the root of the sum of squares: near a normal variable of variance
    1, it moves by as much of that as the weights do of themselves.

    Raises:
        ExpediteError: Weights are elsewhere until a module is called.
    """
    return torch.stack([_sign_sum(block) for block in host.blocks])


@torch.no_grad()
def _sign_sum(block: nn.Module) -> Tensor:
    weights = [weight.flatten()[:_COUNTED] for weight in block.parameters()]
    if any(weight.is_meta for weight in weights):
        raise ExpediteError(
            "a calibration was asked of a model whose weights are offloaded; one whose weights "
            "stay on their device works"
        )
    every = torch.cat([weight.cpu().double() for weight in weights])
    signs = torch.randint(2, every.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found: Tensor = (every * signs).sum() / every.square().sum().sqrt()
    return found


def _fits_together(tensors: dict[str, Tensor], alpha: int) -> bool:
    if sorted(tensors) != sorted(_TENSORS) or tensors["metric"].dim() != 2:
        return False
    blocks = tensors["weights"].numel() - alpha
    return tensors["drift"].shape == (blocks, SPREADS, tensors["metric"].shape[0])
