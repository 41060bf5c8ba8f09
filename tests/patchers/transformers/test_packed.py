"""Towers that do not take images: patches of several sizes, one sequence of all, some of them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import expedite
from expedite import ExpediteError
from expedite.operators import clustering
from tests.hosts import images, open_frames, randomized
from tests.patchers.transformers.test_towers import VIT
from tests.patching.test_oracles import HARD, blocky

hf: Any = transformers  # its configs take what their annotations do not show
QWEN: dict[str, Any] = {"depth": 4, "num_heads": 2, "patch_size": 4, "temporal_patch_size": 1}

pytestmark = pytest.mark.usefixtures("no_gradients")


def qwen3() -> Any:
    """Squares of 2×2 tokens, of which two blocks' outputs are merged too."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 16}
    states = {"num_position_embeddings": 64, "deepstack_visual_indexes": [1, 2]}
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

    return Qwen3VLVisionModel(hf.Qwen3VLVisionConfig(**QWEN, **sizes, **states))


def qwen2() -> Any:
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

    config = Qwen2VLVisionConfig(**QWEN, embed_dim=32, hidden_size=16, mlp_ratio=2)
    return Qwen2VisionTransformerPretrainedModel(config)


def siglip2() -> Any:
    return hf.Siglip2VisionModel(hf.Siglip2VisionConfig(**VIT, num_patches=64))


def masked_autoencoder() -> Any:
    return hf.ViTMAEModel(hf.ViTMAEConfig(**VIT, mask_ratio=0.0))


def pretraining() -> Any:
    sizes = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1}
    heads = {"decoder_num_attention_heads": 2, "decoder_intermediate_size": 32}
    return hf.ViTMAEForPreTraining(hf.ViTMAEConfig(**VIT, **sizes, **heads, mask_ratio=0.0))


def patches(x: Any) -> Any:
    """Those of 4×4 pixels of images, row by row, (B, H, W, C·16)."""
    cut = x.unfold(2, 4, 4).unfold(3, 4, 4)
    return cut.permute(0, 2, 3, 1, 4, 5).flatten(3)


def squares(x: Any) -> Any:
    """These, those of a square of 2×2 behind one another, of one image after the other."""
    cut = patches(x)
    return cut.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).transpose(2, 3).flatten(0, -2)


def in_squares(model: Any, x: Any, **keywords: Any) -> Any:
    sizes = torch.tensor([[1, x.shape[2] // 4, x.shape[3] // 4]]).repeat(len(x), 1)
    return model(squares(x), sizes, **keywords)


def in_rows(model: Any, x: Any, **keywords: Any) -> Any:
    cut = patches(x)
    sizes = torch.tensor([cut.shape[1:3]]).repeat(len(x), 1)
    cut = cut.flatten(1, 2)
    return model(cut, torch.ones(cut.shape[:2]), sizes, **keywords)


def in_order(model: Any, x: Tensor, **keywords: Any) -> Any:
    return model(x, noise=torch.arange(64.0).expand(len(x), -1), **keywords)


def but_the_loss(model: Any, x: Tensor, **keywords: Any) -> Any:
    # That is of patches that were left out.
    return in_order(model, x, **keywords).to_tuple()[1:]


Call = Callable[..., Any]
# The last says whether tokens that are equal in cells of 2×2 are merged without loss.
MODELS: dict[str, tuple[Callable[[], Any], Call, bool]] = {
    "Qwen2-VL's images": (qwen2, in_squares, False),
    "Qwen3-VL's images": (qwen3, in_squares, False),
    "SigLIP 2": (siglip2, in_rows, True),
    "ViTMAE": (masked_autoencoder, in_order, True),
    "ViTMAE for pretraining": (pretraining, but_the_loss, False),
}
names = pytest.mark.parametrize("name", list(MODELS))


def made(name: str) -> tuple[Any, Call]:
    torch.manual_seed(0)
    make, call, _ = MODELS[name]
    return randomized(make()), call


def read(output: Any) -> list[Tensor]:
    """Every tensor in an output."""
    if isinstance(output, Tensor):
        return [output]
    values = output.to_tuple() if hasattr(output, "to_tuple") else output
    return [tensor for value in values for tensor in read(value)]


@names
def test_patches_and_returns_to_what_it_was(name: str) -> None:
    model, call = made(name)
    plain = read(call(model, images(), output_hidden_states=True))
    expedite.patch(model, alpha=1, clusters=4)
    patched = read(call(model, images(), output_hidden_states=True))
    assert [t.shape for t in patched] == [t.shape for t in plain]
    assert not torch.allclose(patched[0], plain[0], rtol=1e-3, atol=1e-3)
    expedite.unpatch(model)
    again = read(call(model, images(), output_hidden_states=True))
    assert all(map(torch.equal, again, plain))


@names
@pytest.mark.parametrize("settings", [{}, {"log_mass": False}])
def test_the_full_grid_without_the_shortcut_equals_the_plain_model(
    name: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, call = made(name)
    plain = read(call(model, images(), output_hidden_states=True))
    expedite.patch(model, alpha=1, clusters=8)  # by the shortcut
    for found, expected in zip(
        read(call(model, images(), output_hidden_states=True)), plain, strict=True
    ):
        torch.testing.assert_close(found, expected)
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    expedite.patch(model, alpha=1, beta=2, clusters=8, **HARD, **settings)
    for found, expected in zip(
        read(call(model, images(), output_hidden_states=True)), plain, strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", [name for name, (*_, is_equal) in MODELS.items() if is_equal])
def test_cells_of_equal_tokens_cluster_without_loss(name: str) -> None:
    model, call = made(name)
    for path, parameter in model.named_parameters():
        if "position" in path:
            parameter.zero_()
    plain = call(model, blocky(images(), 4))[0]
    expedite.patch(model, alpha=1, clusters=4, **HARD)
    found = call(model, blocky(images(), 4))[0]
    torch.testing.assert_close(found, plain, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", ["Qwen3-VL's images", "SigLIP 2"])
def test_images_that_are_not_square(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, call = made(name)
    x = images(2, 32, 48)
    plain = read(call(model, x))
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    expedite.patch(model, alpha=1, clusters=(8, 12), **HARD)
    for found, expected in zip(read(call(model, x)), plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


def test_images_of_several_sizes_are_refused() -> None:
    pixtral = hf.PixtralVisionModel(hf.PixtralVisionConfig(**VIT))
    expedite.patch(pixtral, alpha=1, clusters=4)
    with pytest.raises(ExpediteError, match="PixtralVisionModel was called with images of several"):
        pixtral(images(), image_sizes=torch.tensor([[32, 32], [32, 16]]))
    assert pixtral(images(), image_sizes=torch.tensor([[32, 16]] * 2))[0].shape == (1, 64, 32)
    model, _ = made("Qwen3-VL's images")
    expedite.patch(model, alpha=1, clusters=4)
    for sizes in ([[1, 8, 8], [1, 8, 4]], [[1, 8, 8], [1, 4, 16]]):
        count = sum(t * h * w for t, h, w in sizes)
        with pytest.raises(ExpediteError, match="was called with images of several sizes"):
            model(torch.randn(count, 48), torch.tensor(sizes))
    assert open_frames(model) == 0


def test_frames_of_a_video_are_images() -> None:
    model, call = made("Qwen3-VL's images")
    expedite.patch(model, alpha=1, clusters=4)
    expected = call(model, images())[0]
    found = model(squares(images()), torch.tensor([[2, 8, 8]]))[0]
    torch.testing.assert_close(found, expected)


def test_padded_patches_are_refused() -> None:
    model = expedite.patch(siglip2(), alpha=1, clusters=4)
    mask, sizes = torch.ones(2, 64), torch.tensor([[8, 8], [8, 7]])
    for shapes in (sizes, sizes[[1, 1]]):
        with pytest.raises(ExpediteError, match="images of one size without padding"):
            model(torch.randn(2, 64, 48), mask, shapes)
    assert open_frames(model) == 0


def test_patches_left_out_or_shuffled_are_refused() -> None:
    model = expedite.patch(masked_autoencoder(), alpha=1, clusters=4)
    with pytest.raises(ExpediteError, match=r"mask_ratio=0\.0 and no noise"):
        model(images())
    with pytest.raises(ExpediteError, match=r"mask_ratio=0\.0 and some noise"):
        model(images(), noise=torch.rand(2, 64))
    model.config.mask_ratio = 0.5
    with pytest.raises(ExpediteError, match=r"mask_ratio=0\.5 and some noise"):
        in_order(model, images())
    assert open_frames(model) == 0
