"""Inverses of small matrices, both by the library and by elimination."""

import pytest
import torch

from expedite.operators import inverse
from expedite.operators.inverse import inverse_root, invert
from expedite.operators.kriging import NUGGET


@pytest.fixture(params=["decomposed", "eliminated"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small matrices by the library, and as graphs are exported."""
    if request.param == "eliminated":
        monkeypatch.setattr(inverse, "_decomposes", lambda matrix: False)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("size", [1, 2, 31, 32, 33, 64, 101])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_matrices_are_inverted_as_the_library_inverts_them(size: int, batch: int) -> None:
    root = torch.randn(batch, 2, size, size + 3)
    matrix = root @ root.mT / size + 0.01 * torch.eye(size)
    expected = torch.linalg.inv(matrix.double()).float()
    scale = float(expected.abs().max()) if batch else 1.0
    torch.testing.assert_close(invert(matrix) / scale, expected / scale, rtol=0, atol=1e-3)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("apart", [0.0, 0.01])
@pytest.mark.parametrize("size", [64, 196])
def test_clusters_that_are_nearly_alike_get_the_weights_that_they_should(
    apart: float, size: int
) -> None:
    kinds = torch.randn(1, 4, 32).repeat_interleave(size // 4, 1)
    points = kinds + apart * torch.randn(8, size, 32)
    likeness = 1 / (1 + torch.cdist(points.double(), points.double()) ** 2 / 64)
    system = (likeness + NUGGET * torch.eye(size)).float()
    tokens = likeness[:, :9] + 1e-3 * torch.randn(8, 9, size)
    expected = tokens @ torch.linalg.inv(system.double())
    found = tokens.float() @ invert(system)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-2)


@pytest.mark.usefixtures("way")
def test_roots_are_those_of_the_inverse() -> None:
    root = torch.randn(2, 48, 60)
    matrix = root @ root.mT / 48
    found = inverse_root(matrix)
    torch.testing.assert_close(found @ matrix @ found.mT, torch.eye(48).expand(2, -1, -1))
    assert (found.triu(1) == 0).all()
