"""What the training scripts share: a run with averaged weights, its schedule, its optimizers.

Needs PyTorch 2.9, the first with Muon, which learnt faster than AdamW when both were tried on
generated scenes.
"""

import math
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast

import torch
from numpy.random import Generator
from torch import Tensor, nn
from torch.optim import Muon, Optimizer
from torch.optim.swa_utils import AveragedModel

from expedite.models.files import write_checkpoint

Model = TypeVar("Model", bound=nn.Module)


class Batches(Sized, Protocol):
    """Anything with a length that gives batches."""

    def __iter__(self) -> Any: ...


@dataclass
class Run(Generic[Model]):
    """Everything that changes while training."""

    model: Model
    averaged_model: AveragedModel
    optimizers: list[Optimizer]
    rates: list[float]
    epoch: int = 0

    @property
    def averaged(self) -> Model:
        """The moving average of the weights, which is what training makes."""
        return cast(Model, self.averaged_model.module)

    def save(self, path: Path) -> None:
        """Write what `restore` reads, whole or not at all."""
        state = {
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "averaged": self.averaged_model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        write_checkpoint(state, path)

    def restore(self, path: Path) -> None:
        """Go on from where `path` was written."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.averaged_model.load_state_dict(state["averaged"])
        for optimizer, of_it in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(of_it)
        self.epoch = state["epoch"]


def start(model: Model, steps: int, lr: float, other_lr: float) -> Run[Model]:
    """A run from a model's weights: Muon for matrices of blocks and layers, AdamW for all else.

    Args:
        model: To be trained.
        steps: How many there will be; the average spans about the last twentieth of them.
        lr: Highest learning rate of those matrices.
        other_lr: Of all other parameters.
    """
    share = min(0.5, 20 / max(steps, 1))
    averaged = AveragedModel(model, avg_fn=lambda mean, new, _: torch.lerp(mean, new, share))
    inside = {name: p for name, p in model.named_parameters() if _is_matrix(name, p)}
    others = [p for name, p in model.named_parameters() if name not in inside]
    matrices = list(inside.values())
    optimizers: list[Optimizer] = [torch.optim.AdamW(others, other_lr, weight_decay=0.0)]
    rates = [other_lr]
    if matrices:  # a head may have none
        muon = Muon(matrices, lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
        optimizers, rates = [muon, *optimizers], [lr, *rates]
    return Run(model, averaged, optimizers, rates)


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    deep = any(part in f".{name}" for part in (".blocks.", ".layers.", ".body."))
    return deep and name.endswith("weight") and parameter.ndim == 2


def progress_of(pixels: Sequence[int], epoch: int, share: float) -> float:
    """The share of all `pixels` of all epochs seen once `share` of `epoch` is behind."""
    return (sum(pixels[:epoch]) + share * pixels[epoch]) / sum(pixels)


def warm_up_and_cosine(progress: float) -> float:
    """The share of the highest learning rate: it rises over a twentieth, then falls to 0."""
    return min(1.0, progress / 0.05) * 0.5 * (1 + math.cos(math.pi * progress))


def train_epoch(
    run: Run[Any],
    batches: Batches,
    pixels: Sequence[int],
    loss_of: Callable[[Any], Tensor],
) -> float:
    """One pass over `batches`; returns the mean loss of the steps that counted.

    Args:
        run: Is changed.
        batches: What `loss_of` takes, one for each step.
        pixels: How many an image has in each epoch.
        loss_of: Maps a batch to its loss.
    """
    losses = []
    for step, batch in enumerate(batches):
        share = warm_up_and_cosine(progress_of(pixels, run.epoch, step / len(batches)))
        for optimizer, rate in zip(run.optimizers, run.rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * share
        losses.append(step_down(run, loss_of(batch)))
    run.epoch += 1
    return torch.tensor(losses).nanmean().item()


def step_down(run: Run[Any], loss: Tensor) -> float:
    """Update the weights and their average; returns the loss.

    A step without a finite gradient, as bfloat16 may have, is left out, and its loss is NaN.
    """
    run.model.zero_grad()
    torch.autograd.backward(loss)
    if not torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0).isfinite():
        return math.nan
    for optimizer in run.optimizers:
        optimizer.step()
    run.averaged_model.update_parameters(run.model)
    return loss.item()


def jitter_colours(image: Tensor, rng: Generator) -> Tensor:
    """Change brightness, contrast and saturation of an image (3, H, W) in [0, 1]."""
    brightness, contrast, saturation = rng.uniform(-0.1, 0.1), *rng.uniform(0.75, 1.25, 2)
    image = (image - 0.5) * contrast + 0.5 + brightness
    grey = image.mean(0)
    return torch.clamp(grey + (image - grey) * saturation, 0, 1)
