"""The operators trace whole; files of exported models are in test_exporting."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import expedite
from expedite.operators.clustering import TokenClustering
from expedite.operators.reconstruction import TokenReconstruction
from tests.hosts import huggingface_beit, huggingface_vit, images, timm_beit, timm_vit

GRID, CLUSTERS = (12, 16), (5, 6)  # neither divides: adaptive pooling would not export
SWITCHES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"temperature": 5.0, "neighborhood": 3}, {"weights": "softmax"}),
    ({"nearest": True}, {"weights": "l2", "delta": False}),
    ({}, {"weights": "hard", "delta": False}),
    ({}, {"reconstruction": "knn", "weights": "linear", "k": 5}),
    ({"hard": True, "projection": 5}, {}),
]


class Descent(nn.Module):
    """To clusters, something done to them, and back."""

    def __init__(self, clustering: dict[str, Any], reconstruction: dict[str, Any]) -> None:
        super().__init__()
        self.cluster = TokenClustering(CLUSTERS, **clustering)
        self.reconstruct = TokenReconstruction(**reconstruction)

    def forward(self, tokens: Tensor, grid: tuple[int, int] = GRID) -> Tensor:
        centroids, record = self.cluster(tokens, grid)
        restored: Tensor = self.reconstruct(2 * centroids, record)
        return restored


@pytest.fixture(autouse=True)
def no_compiled_code() -> None:
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.parametrize(("clustering", "reconstruction"), SWITCHES)
def test_compiles_whole(clustering: dict[str, Any], reconstruction: dict[str, Any]) -> None:
    model = Descent(clustering, reconstruction)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for batch in (2, 3):
        tokens = torch.randn(batch, 192, 8)
        # Compiled, sums are taken in another order, which inverses in few channels magnify.
        torch.testing.assert_close(compiled(tokens), model(tokens), rtol=1e-5, atol=2e-4)


@pytest.mark.slow
def test_one_compilation_for_each_size() -> None:
    counter = CompileCounter()
    compiled = torch.compile(Descent({}, {}), fullgraph=True, backend=counter)
    sizes = [(12, 16), (14, 9), (10, 20)]
    for grid in [*sizes, *sizes]:
        compiled(torch.randn(2, grid[0] * grid[1], 8), grid)
    assert counter.frame_count <= len(sizes)


@pytest.mark.slow
def test_inductor_agrees_with_eager() -> None:
    model, tokens = Descent({"iterations": 2, "hard": True}, {}), torch.randn(2, 192, 8)
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(compiled(tokens), model(tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [timm_vit, timm_beit])
def test_a_patched_model_exports_for_any_batch(make: Any) -> None:
    model = expedite.patch(make(), alpha=1, clusters=CLUSTERS)
    shapes = ({0: torch.export.Dim("batch")},)
    with torch.no_grad():
        exported = torch.export.export(model, (images(2),), dynamic_shapes=shapes).module()
        torch.testing.assert_close(exported(images(5)), model(images(5)))


@pytest.mark.parametrize("log_mass", [True, False])
@pytest.mark.parametrize("make", [huggingface_vit, huggingface_beit])
def test_a_mask_that_transformers_makes_for_an_export_is_not_one_of_the_callers(
    make: Any, log_mass: bool
) -> None:
    model = expedite.patch(make(), alpha=1, clusters=CLUSTERS, log_mass=log_mass)
    with torch.no_grad():
        exported = torch.export.export(model, (images(2),)).module()
        torch.testing.assert_close(exported(images(2)), model(images(2)), rtol=1e-4, atol=1e-4)
