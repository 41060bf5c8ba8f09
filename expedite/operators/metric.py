"""In which few numbers tokens are compared: on all of their channels distances would cost too much.

Either sums of channels with random signs, or the directions in which the tokens of an image differ
most, which keep less of what makes neighbours unlike but nothing for what follows.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from expedite.geometry.constants import remembered
from expedite.operators.choices import Basis
from expedite.operators.inverse import inverse_root
from expedite.operators.kernels import fused

# Products with the tokens' covariance, from random directions on, as good as many more.
_STEPS = 2
# Of the mean square of columns: what rounding leaves where columns are combinations of others is
# less, up to a part in 1e5 of the largest.
_RIDGE = 1e-4
_TINY = 1e-30
_PRIME = 2**31 - 1  # products of two remainders fit into 64 bits


def standardize(
    features: Tensor, directions: int | None, basis: Basis = "hashed"
) -> tuple[Tensor, Tensor]:
    """Features of unit size without their mean, which would drown the distances, and the unit.

    Args:
        features: (B, N, D).
        directions: On how many numbers distances are measured; None, or D and more, means on all.
        basis: "hashed" for sums of channels, see `project`; "principal" for the image's own
            directions, see `principal`.

    Returns:
        (B, N, directions) float32, and (B, 1, 1).

    Example:
        >>> standardize(torch.randn(2, 100, 384), 32, "principal")[0].shape
        torch.Size([2, 100, 32])
    """
    flat = features.flatten(1)
    unit = torch.maximum(flat.amax(1), -flat.amin(1)).float().clamp_min(_TINY)[:, None, None]
    depth = features.shape[-1]
    if directions is None or directions >= depth:
        return _without_mean((features / unit).float()), unit
    (signs,) = _signs(depth, features.device)
    if basis == "hashed" or fused(features):
        sums = _fold(features, signs / unit, directions)
    else:  # a product: sums of slices of rows would take more passes than it takes time
        sums = features.float() @ (_one_hot(signs, directions) / unit)
    sums = _without_mean(sums)
    return (sums if basis == "hashed" else principal(features.float(), sums, unit)), unit


def principal(x: Tensor, start: Tensor, unit: Tensor) -> Tensor:
    """Tokens in the directions of their largest variance, about as good as eigenvectors give them.

    Randomised subspace iteration (Halko, Martinsson and Tropp 2011, Algorithm 4.4): a few products
    in place of a decomposition, the same on every device.

    Args:
        x: (B, N, D) float32; means are taken off what has p columns, never off as many as these.
        start: (B, N, p) their products with p random directions, without their mean.
        unit: (B, 1, 1) of x.

    Returns:
        (B, N, p) without their mean, in that unit.

    Example:
        >>> flat = torch.randn(1, 100, 2) @ torch.randn(2, 64)
        >>> start = flat @ torch.randn(64, 3)
        >>> found = principal(flat, start - start.mean(1, keepdim=True), torch.ones(1, 1, 1))
        >>> apart, before = torch.pdist(found[0]), torch.pdist(flat[0])
        >>> bool((apart - before).abs().max() < 1e-3 * before.max())
        True
    """
    for _ in range(_STEPS):
        # A choice of what is compared, through which no gradient is to flow.
        columns = (x.mT @ (start / unit)).detach()
        # Once more, for what the ridge took from the weaker ones.
        start = _without_mean(x @ (_orthonormal(_orthonormal(columns)) / unit))
    return start


def _orthonormal(columns: Tensor) -> Tensor:
    """Columns (B, D, p) made orthonormal, by the Cholesky factor of their products.

    Those that are linear combinations of others become nearly nothing.
    """
    size = columns.square().sum((1, 2), keepdim=True) / columns.shape[-1]
    columns = columns / size.clamp_min(_TINY).sqrt()
    unit = torch.eye(columns.shape[-1], device=columns.device)
    return columns @ inverse_root(columns.mT @ columns + _RIDGE * unit).mT


def _without_mean(x: Tensor) -> Tensor:
    return x - x.mean(1, keepdim=True)


def project(features: Tensor, channels: int | None) -> Tensor:
    """Random projections that keep distances: sums of channels with random signs.

    Feature hashing (Weinberger et al. 2009): channel i goes to sum i mod `channels`. For twice the
    channels it is closer than dense random projections, and it needs no product. The signs are the
    parity of a hash: the same on every device and in every process.

    Args:
        features: (B, N, D).
        channels: How many sums; None, or D and more, returns the features themselves.

    Returns:
        (B, N, channels), in which squared distances have the expectation they had.

    Example:
        >>> x = torch.randn(1, 100, 512)
        >>> shorter = project(x, 64)
        >>> bool((torch.cdist(shorter, shorter) - torch.cdist(x, x)).abs().max() < 16)  # of 32
        True
    """
    depth = features.shape[-1]
    if channels is None or channels >= depth:
        return features
    (signs,) = _signs(depth, features.device)
    return _fold(features, signs, channels)


def _fold(features: Tensor, factors: Tensor, width: int) -> Tensor:
    """Sums of every `width`-th channel times its factor, float32: one pass, no large temporary."""
    if fused(features):
        from expedite.operators.kernels.rows import fold

        return fold(features, factors, width)
    total = features.new_zeros(width, dtype=torch.float32)
    for start in range(0, features.shape[-1], width):
        part, factor = (x[..., start : start + width].float() for x in (features, factors))
        if missing := width - part.shape[-1]:
            part, factor = F.pad(part, (0, missing)), F.pad(factor, (0, missing))
        total = torch.addcmul(total, part, factor)
    return total


def _one_hot(signs: Tensor, width: int) -> Tensor:
    """The matrix (D, width) by which features have the sums of `_fold`."""
    place = torch.arange(len(signs), device=signs.device) % width
    return F.one_hot(place, width) * signs[:, None]


@remembered
def _signs(depth: int, device: torch.device) -> tuple[Tensor]:
    channel = torch.arange(depth, device=device)
    mixed = _remainder(channel * 48271 + 117892)
    mixed = _remainder(mixed * mixed)
    mixed = _remainder(mixed * 16807 + channel)
    odd = _remainder(mixed * mixed) % 2  # squares modulo a prime look random in their last bit
    return ((2 * odd - 1).float(),)  # (depth,)


def _remainder(x: Tensor) -> Tensor:
    """Of x < 2⁶² over `_PRIME`, which is 2³¹ - 1, so that higher bits count as much as low ones.

    Not by `%`: compilers would work products out beyond the integers that their kernels take.
    """
    for _ in range(2):
        x = (x & _PRIME) + (x >> 31)
    return x
