"""Segment Anything's image encoder from three libraries."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import segment_anything
import timm
import torch
import torch.nn.functional as F
import transformers
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling import image_encoder as published
from torch import Tensor

import expedite
from expedite import ExpediteError, Plan, Span
from expedite.measure.flops import count_flops
from expedite.operators import clustering
from expedite.operators.windows import cluster_windows, partition, reconstruct_windows, unpartition
from expedite.patching.positions.decomposed import between, middles, places, positions
from expedite.patching.windows.window_blocks import log_mass_of_padding
from tests.hosts import (
    counted_reconstructions,
    huggingface_sam,
    images,
    open_frames,
    randomized,
    segment_anything_sam,
    timm_sam,
    without_positions,
)
from tests.oracles import IN_WINDOWS
from tests.patching.test_oracles import HARD, blocky

CPU = torch.device("cpu")
hf: Any = transformers  # its configs take what their annotations do not show
ENCODERS: dict[str, Callable[..., Any]] = {
    "segment_anything": segment_anything_sam,
    "timm": timm_sam,
    "transformers": huggingface_sam,
}
encoders = pytest.mark.parametrize("make", list(ENCODERS.values()), ids=list(ENCODERS))

pytestmark = pytest.mark.usefixtures("no_gradients")


# Windows that divide the map of 8×8, that leave a border of 2, and that leave one of 3.
@pytest.mark.parametrize("window", [4, 6, 5])
@pytest.mark.parametrize(
    "settings", [{}, {"delta": False}, {"log_mass": False}, {"window_borders": False}]
)
@encoders
def test_full_windows_without_the_shortcut_equal_the_plain_model(
    make: Any, settings: dict[str, Any], window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(patch_size=4, window_size=window)
    plain = model(images())
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    for alpha, beta in ((0, None), (1, 2)):
        expedite.patch(model, alpha=alpha, beta=beta, clusters=window, **HARD, **settings)
        torch.testing.assert_close(model(images()), plain, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("size", [(40, 24), (36, 52)])
def test_full_windows_on_maps_of_other_shapes(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The global blocks' tables are resized, as the model itself does.
    model, x = timm_sam(patch_size=4, window_size=4), images(3, *size)
    plain = model(x)
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    expedite.patch(model, alpha=0, clusters=4, **HARD)
    torch.testing.assert_close(model(x), plain, rtol=2e-3, atol=2e-3)


# 8×8 tokens in windows of 4: none padded; of 6: windows of 2 rows with 4 rows of padding.
@pytest.mark.parametrize("window", [4, 6])
@pytest.mark.parametrize("settings", [{}, {"delta": False}, {"window_borders": False}])
@encoders
def test_cells_of_equal_tokens_cluster_without_loss(
    make: Any, settings: dict[str, Any], window: int
) -> None:
    model = without_positions(make(patch_size=4, window_size=window))
    x = blocky(images(), 4)
    plain = model(x)
    expedite.patch(model, alpha=0, clusters=window // 2, **settings, **HARD)
    torch.testing.assert_close(model(x), plain, rtol=1e-3, atol=1e-3)


def test_cells_of_equal_tokens_pass_a_chain_of_clusterings() -> None:
    # 16×16 tokens, constant over cells of 4×4, in windows of 12 of which the border leaves 4.
    model = without_positions(timm_sam(window_size=12, depth=5))
    x = blocky(blocky(images(), 4), 2)
    plain = model(x)
    chain = Plan((Span(0, clusters=6), Span(2, clusters=3)), **HARD)
    expedite.patch(model, chain)
    torch.testing.assert_close(model(x), plain, rtol=1e-3, atol=1e-3)
    assert expedite.describe(model).kept == ((8, 8), (4, 4))


def test_padding_counts_as_many_tokens_as_it_stands_for() -> None:
    # 7×8 tokens in windows of 5, 3×3 cells each: 2 rows and 3 columns remain, 2 cells for both.
    (found,) = log_mass_of_padding((7, 5, 5, 3, True), (8, 5, 5, 3, True), CPU)
    expected = torch.ones(6, 6)
    expected[:3, 5] = 10 / 3  # of 5×5 tokens 5×3 are there
    expected[5, :3] = 15 / 3
    expected[5, 3:] = expected[3:, 5] = 19 / 5
    torch.testing.assert_close(found.exp(), expected)


def test_whole_distances_give_the_librarys_own_positions() -> None:
    queries, rows, columns = torch.randn(6, 30, 8), torch.randn(9, 8), torch.randn(11, 8)
    shape = (5, 6)
    expected = published.add_decomposed_rel_pos(
        torch.zeros(6, 30, 30), queries, rows, columns, shape, shape
    )
    middle = [torch.arange(float(side))[None] for side in shape]
    found = positions(
        queries.view(3, 2, 30, 8), between(rows, middle[0], 5), between(columns, middle[1], 6)
    )
    torch.testing.assert_close(found.flatten(0, 1), expected)
    # A table for another side is resized first, by both.
    resized = published.get_rel_pos(7, 7, rows)
    torch.testing.assert_close(between(rows, torch.arange(7.0)[None], 7)[0], resized)


def test_other_distances_lie_between_them() -> None:
    """Against a loop over pairs of cells: 10 tokens in windows of 4, 3 cells each."""
    table, queries = torch.randn(2, 7, 8), torch.randn(9, 2, 9, 8)  # 3×3 windows
    spans = [[0, 4 / 3, 8 / 3, 4]] * 2 + [[0, 1, 2, 4]]  # the last two rows: two cells, padding
    (middle, there, tokens) = places(10, 4, 8, 3, True, CPU)
    sides = [between(part, middle, 4) for part in table]
    found = positions(queries, sides[0], sides[1])
    assert tokens.flatten().tolist() == [4, 4, 2]
    assert there.tolist() == [[True] * 3, [True] * 3, [True, True, False]]

    def vector(part: Tensor, ends: list[float], q: int, k: int) -> Tensor:
        distance = (ends[q] + ends[q + 1] - ends[k] - ends[k + 1]) / 2 + 3
        lower = min(int(distance), 5)
        return part[lower] + (distance - lower) * (part[lower + 1] - part[lower])

    for window in (0, 2, 8):
        rows, columns = spans[window // 3], spans[window % 3]
        for q in range(9):
            for k in range(9):
                wanted = vector(table[0], rows, q // 3, k // 3)
                wanted = wanted + vector(table[1], columns, q % 3, k % 3)
                score = (queries[window, :, q] * wanted).sum(-1)
                torch.testing.assert_close(found[window, :, q, k], score)


def test_cells_of_the_whole_map_stand_at_their_own_centres() -> None:
    (found,) = middles(10, 4, 8, 3, True, CPU)
    expected = [[1 / 6, 1.5, 17 / 6, 25 / 6, 5.5, 41 / 6, 8, 9]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_without_borders_all_cells_stand_for_as_many_tokens() -> None:
    (found,) = middles(10, 4, 8, 3, False, CPU)
    torch.testing.assert_close(found, torch.arange(8)[None] * 1.25 + 0.125)
    _, there, tokens = places(10, 4, 8, 3, False, CPU)
    assert tokens.flatten().tolist() == [3.75, 3.75, 2.5]
    assert there.sum().item() == 8


def attend(block: Any, x: Tensor, middle: Tensor, side: int, log_mass: Tensor) -> Tensor:
    """A block's attention on square windows (n, k, k, C), written out."""
    attention = block.attn
    n, k, _, width = x.shape
    q, key, v = (
        part.view(n, k * k, 2, width // 2).transpose(1, 2)
        for part in attention.qkv(x).view(n, k * k, 3 * width).split(width, -1)
    )
    scores = q @ key.mT / (width // 2) ** 0.5 + log_mass.view(n, 1, 1, k * k)
    down = between(attention.rel_pos_h, middle, side)[0]  # (k, k, d)
    across = between(attention.rel_pos_w, middle, side)[0]
    for i in range(k * k):
        for j in range(k * k):
            vector = down[i // k, j // k] + across[i % k, j % k]
            scores[:, :, i, j] += q[:, :, i] @ vector
    y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)
    return attention.proj(y)  # type: ignore[no-any-return]


def test_blocks_equal_the_operators_by_hand() -> None:
    # 8×8 tokens in windows of 6 clustered to 3×3: a map of 4×4, padded to 6×6.
    model, x = segment_anything_sam(patch_size=4, window_size=6, depth=3), images()
    first, whole, windowed = model.blocks
    tokens = first(model.patch_embed(x) + model.pos_embed)
    features = whole.norm1(tokens)
    in_place = {**IN_WINDOWS, "relocated": 0.0}
    short, record = cluster_windows(tokens, (6, 6), (3, 3), features=features, **in_place)
    log_mass = record.mass.log()
    middle = torch.tensor([[0.5, 2.5, 4.5, 6.5]])
    short = short + attend(whole, whole.norm1(short), middle, 8, log_mass)
    short = short + whole.mlp(whole.norm2(short))
    padded = partition(F.pad(windowed.norm1(short), (0, 0, 0, 2, 0, 2)), (3, 3))
    mass = F.pad(log_mass, (0, 2, 0, 2), value=torch.tensor(4.0).log().item())
    windows = partition(mass[..., None], (3, 3))
    attended = attend(windowed, padded, torch.tensor([[0.5, 2.5, 4.5]]), 6, windows)
    short = short + unpartition(attended, (2, 2))[:, :4, :4]
    short = short + windowed.mlp(windowed.norm2(short))
    expected = model.neck(reconstruct_windows(short, record).permute(0, 3, 1, 2))
    expedite.patch(model, alpha=1, clusters=3)
    torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-3)


def test_resized_tables_are_those_of_the_librarys_own_blocks_on_a_smaller_map() -> None:
    # As the published code has it: SAM's blocks resize their tables to the map that they get.
    model, x = segment_anything_sam(patch_size=4, window_size=4, depth=3), images()
    tokens = model.blocks[0](model.patch_embed(x) + model.pos_embed)
    short, record = cluster_windows(tokens, (4, 4), (2, 2))
    short = model.blocks[1](short)
    model.blocks[2].window_size = 2
    short = model.blocks[2](short)
    model.blocks[2].window_size = 4
    full = reconstruct_windows(short, record)
    expected = model.neck(full.permute(0, 3, 1, 2))
    plain: dict[str, Any] = {"space": "tokens", "hard": False, "log_mass": False}
    expedite.patch(model, alpha=1, clusters=2, position_tables="resized", **plain)
    torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("indices", "options", "maps"),
    [
        ([0], {}, 1),  # the result alone
        ([0], {"intermediates_only": True}, 0),
        ([1, 2, 3], {}, 3),
        ([2], {"stop_early": True, "intermediates_only": True}, 1),
        (2, {"norm": True, "intermediates_only": True}, 2),
    ],
)
def test_only_taps_of_timm_that_are_read_are_reconstructed(
    indices: Any, options: dict[str, Any], maps: int
) -> None:
    model = timm_sam()
    plain = model.forward_intermediates(images(), indices=indices, **options)
    expedite.patch(model, alpha=1, clusters=4)
    with counted_reconstructions(model) as calls:
        patched = model.forward_intermediates(images(), indices=indices, **options)
    assert len(calls) == maps
    pairs = zip(*(tuple(tensors(taps)) for taps in (patched, plain)), strict=True)
    assert all(tap.shape == before.shape for tap, before in pairs)
    assert open_frames(model) == 0


def tensors(nested: Any) -> list[Tensor]:
    return [nested] if isinstance(nested, Tensor) else [t for part in nested for t in tensors(part)]


def test_features_only_models_of_timm_give_full_maps() -> None:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"img_size": 96, "embed_dim": 48, "num_heads": 2, "window_size": 4}
    model = timm.create_model(
        "samvit_base_patch16", features_only=True, out_indices=[1, 4, 7], **arguments
    ).eval()
    x = images(1, 96, 96)
    plain = model(x)
    expedite.patch(model, alpha=3, clusters=3)
    with counted_reconstructions(model) as calls:
        patched = model(x)
    assert [tap.shape for tap in patched] == [(1, 48, 6, 6)] * 3
    assert len(calls) == 2
    assert torch.equal(patched[0], plain[0])  # before the span
    assert not torch.equal(patched[1], plain[1])
    assert all(map(torch.equal, expedite.unpatch(model)(x), plain))


def test_without_a_neck_in_timm() -> None:
    model = timm_sam(neck_chans=None, use_abs_pos=False)
    plain = model(images())
    assert expedite.patch(model, alpha=1, clusters=5)(images()).shape == plain.shape
    assert torch.equal(expedite.unpatch(model)(images()), plain)


def test_layer_scale_and_norms_of_queries_in_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    model = timm_sam(init_values=0.5, qk_norm=True, drop_path_rate=0.1, attn_drop_rate=0.1)
    plain = model(images())
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    expedite.patch(model, alpha=0, clusters=8, **HARD)
    torch.testing.assert_close(model(images()), plain, rtol=2e-3, atol=2e-3)
    torch.manual_seed(0)
    expedite.patch(model.train(), alpha=0, clusters=4)
    assert not torch.equal(model(images()), model(images()))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_hidden_states_of_transformers_have_the_full_map(attention: str) -> None:
    model = huggingface_sam(attn_implementation=attention).model
    plain = model(images(), output_hidden_states=True).hidden_states
    expedite.patch(model, alpha=2, clusters=4)
    with counted_reconstructions(model) as calls:
        states = model(images(), output_hidden_states=True).hidden_states
    assert [state.shape for state in states] == [(2, 16, 16, 32)] * 5
    assert all(torch.equal(a, b) for a, b in zip(states[:3], plain[:3], strict=True))
    assert not torch.allclose(states[3], plain[3], rtol=1e-3, atol=1e-3)
    assert len(calls) == 2


def sam_hq() -> Any:
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    windows = {"window_size": 8, "global_attn_indexes": [1, 3], "output_channels": 16}
    config = hf.SamHQVisionConfig(**sizes, **windows, mlp_dim=64, image_size=32, patch_size=2)
    torch.manual_seed(0)
    return randomized(hf.SamHQVisionModel(config))


def test_sam_hq_hands_on_what_its_blocks_without_windows_put_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def everything() -> list[Tensor]:
        found = model(images())
        return [found.last_hidden_state, *found.intermediate_embeddings]

    model = sam_hq()
    plain = everything()
    expedite.patch(model, alpha=1, clusters=4)
    with counted_reconstructions(model) as calls:
        patched = everything()
    assert [t.shape for t in patched] == [t.shape for t in plain]
    assert not torch.allclose(patched[1], plain[1], rtol=1e-3, atol=1e-3)
    assert len(calls) == 2
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    expedite.patch(model, alpha=1, clusters=8, **HARD)
    torch.testing.assert_close(everything(), plain, rtol=1e-3, atol=1e-3)
    expedite.unpatch(model)
    assert all(map(torch.equal, everything(), plain))


def test_a_fork_that_reads_blocks_is_not_taken_for_the_published_encoder() -> None:
    class ImageEncoderViT(published.ImageEncoderViT):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Any:
            x, kept = self.patch_embed(x), []
            for block in self.blocks:
                kept.append(x := block(x))
            return self.neck(x.permute(0, 3, 1, 2)), kept

    ImageEncoderViT.__module__ = published.__name__
    ImageEncoderViT.forward.__module__ = published.__name__
    with pytest.raises(ExpediteError, match="of no known family"):
        expedite.patch(ImageEncoderViT(), alpha=1, clusters=4)


def eager_sam() -> Any:
    return huggingface_sam(attn_implementation="eager").model


def test_eager_attention_of_transformers_gives_the_same() -> None:
    fused, eager = huggingface_sam().model, eager_sam()
    assert type(eager.vision_encoder.layers[0].attn) is not type(
        fused.vision_encoder.layers[0].attn
    )
    for model in (fused, eager):
        expedite.patch(model, alpha=1, clusters=4)
    found, expected = (model(images()).last_hidden_state for model in (eager, fused))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_attention_of_clusters_is_not_shown() -> None:
    model = eager_sam()
    assert len(model(images(), output_attentions=True).attentions) == 4
    expedite.patch(model, alpha=1, clusters=4)
    with pytest.raises(ExpediteError, match="unpatch it to see attention among tokens"):
        model(images(), output_attentions=True)
    assert open_frames(model) == 0
    assert model(images()).last_hidden_state.shape == (2, 16, 16, 16)


def as_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of segment_anything's encoder under the names of transformers."""
    changes = {
        "blocks.": "layers.",
        "norm1.": "layer_norm1.",
        "norm2.": "layer_norm2.",
        "patch_embed.proj.": "patch_embed.projection.",
        "neck.0.": "neck.conv1.",
        "neck.1.": "neck.layer_norm1.",
        "neck.2.": "neck.conv2.",
        "neck.3.": "neck.layer_norm2.",
    }
    names = {name: name for name in state}
    for old, new in changes.items():
        names = {name: found.replace(old, new) for name, found in names.items()}
    return {names[name]: tensor for name, tensor in state.items()}


def test_the_three_libraries_agree() -> None:
    x = images()
    one = segment_anything_sam(mlp_ratio=2)
    other = huggingface_sam()
    other.model.vision_encoder.load_state_dict(as_transformers(one.state_dict()))
    third = timm_sam(num_classes=0, global_pool="", mlp_ratio=2)
    third.load_state_dict(
        {name.replace("mlp.lin", "mlp.fc"): tensor for name, tensor in one.state_dict().items()}
    )
    for model in (one, other, third):
        expedite.patch(model, Plan((Span(1, clusters=6, beta=1), Span(2, clusters=(3, 4)))))
    torch.testing.assert_close(other(x), one(x), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(third(x), one(x), rtol=1e-3, atol=1e-3)


def whole_sam() -> Any:
    encoder = segment_anything_sam(img_size=64, patch_size=8, window_size=6, out_chans=32)
    transformer = TwoWayTransformer(depth=1, embedding_dim=32, mlp_dim=32, num_heads=2)
    prompts = PromptEncoder(32, (8, 8), (64, 64), mask_in_chans=4)
    decoder = MaskDecoder(transformer_dim=32, transformer=transformer, iou_head_hidden_dim=16)
    return randomized(Sam(encoder, prompts, decoder))


def test_masks_of_a_point_by_segment_anything() -> None:
    model = whole_sam()
    predictor = segment_anything.SamPredictor(model)
    photograph = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)

    def masks() -> Any:
        predictor.set_image(photograph)
        return predictor.predict(np.array([[20, 30]]), np.array([1]))[2]

    plain = masks()
    expedite.patch(model, alpha=1, clusters=3)
    assert expedite.describe(model).path == "image_encoder"
    with counted_reconstructions(model) as calls:
        patched = masks()
    assert len(calls) == 1
    assert patched.shape == plain.shape
    assert not np.allclose(patched, plain, rtol=1e-2)
    prompt = {"point_coords": torch.full((1, 1, 2), 30.0), "point_labels": torch.ones(1, 1)}
    image = {"image": 255 * images(1, 40, 60)[0], "original_size": (20, 30), **prompt}
    (found,) = model([image], multimask_output=True)
    assert found["masks"].shape == (1, 3, 20, 30)
    expedite.unpatch(model)
    assert np.array_equal(masks(), plain)


def test_masks_of_a_point_by_transformers() -> None:
    vision = huggingface_sam(patch_size=4).model.config
    vision.output_channels, vision.num_pos_feats = 16, 8
    prompts = hf.SamPromptEncoderConfig(hidden_size=16, image_size=32, patch_size=4)
    decoder = hf.SamMaskDecoderConfig(
        hidden_size=16,
        mlp_dim=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        iou_head_hidden_dim=8,
    )
    torch.manual_seed(0)
    model = randomized(
        hf.SamModel(
            hf.SamConfig(
                vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder
            )
        )
    )
    prompt = {"pixel_values": images(), "input_points": torch.full((2, 1, 1, 2), 12.0)}
    plain = model(**prompt)
    expedite.patch(model, alpha=1, clusters=4)
    assert expedite.describe(model).path == "vision_encoder"
    patched = model(**prompt, output_hidden_states=True)
    assert patched.pred_masks.shape == plain.pred_masks.shape
    assert not torch.allclose(patched.pred_masks, plain.pred_masks, rtol=1e-2)
    assert {state.shape for state in patched.vision_hidden_states} == {(2, 8, 8, 32)}
    assert torch.equal(expedite.unpatch(model)(**prompt).pred_masks, plain.pred_masks)


def test_spans_chained_and_apart() -> None:
    model = timm_sam(depth=6, window_size=6)
    seen: list[tuple[int, ...]] = []
    for block in model.blocks:
        block.norm2.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1:-1]))
    apart = Plan((Span(1, clusters=4, beta=1), Span(4, clusters=3)))
    chained = Plan((Span(1, clusters=5, beta=2), Span(3, keep=0.5)))
    for plan, sides in ((apart, [16, 11, 16, 16, 8, 8]), (chained, [16, 14, 14, 12, 12, 12])):
        seen.clear()
        expedite.patch(model, plan)
        model(images())
        assert [int(shape.numel() ** 0.5) for shape in map(torch.Size, seen)] == sides
        kept = expedite.describe(model).kept
        assert [rows for rows, _ in kept] == sorted({*sides} - {16}, reverse=True)


def test_small_windows_at_the_border_are_rebuilt_from_all_they_have() -> None:
    # 9×9 tokens in windows of 8: one row, one column and one token are left.
    model = timm_sam(img_size=36, patch_size=4)
    expedite.patch(model, alpha=1, clusters=4, weights="linear", k=16)
    assert model(images(2, 36, 36)).isfinite().all()


def test_maps_smaller_than_a_window() -> None:
    model = timm_sam(patch_size=4)
    expedite.patch(model, alpha=1, clusters=4)
    assert model(images(1, 20, 28)).isfinite().all()
    assert expedite.describe(model, grid=(5, 7)).kept == ((3, 4),)


def test_describe_speaks_of_windows() -> None:
    model = expedite.patch(segment_anything_sam(patch_size=3), alpha=1, keep=0.25)
    assert str(expedite.describe(model)) == (
        "segment_anything ImageEncoderViT: 4 blocks, grid 10×10, windows of 8×8, 0 prefix tokens\n"
        "taps: none; reconstruct_at: backbone\n"
        "blocks 2 to 4 run on 5×5 clusters in windows of 4×4, 25 of 100 tokens (25.0%)"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clusters": 9}, "9×9 clusters were asked where the timm .* has 8×8 tokens in a window"),
        (
            {"clusters": 2, "weights": "linear"},
            "k=8 nearest clusters were asked of 2×2; k can be at most 4",
        ),
        ({"clusters": 4, "reconstruct_at": "head"}, "'backbone' works"),
    ],
)
def test_refuses_plans_that_cannot_be_carried_out(arguments: Any, message: str) -> None:
    with pytest.raises(ExpediteError, match=message):
        expedite.patch(timm_sam(), alpha=1, **arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_rel_pos": False}, "without decomposed relative positions"),
        ({"use_rel_pos": False, "use_rope": True}, "without decomposed relative positions"),
        ({"window_size": 0}, "0 sizes of windows"),
    ],
)
def test_refuses_encoders_that_nobody_published(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ExpediteError, match=message):
        expedite.patch(timm_sam(**changes), alpha=1, clusters=4)


@encoders
def test_nothing_is_left_uncounted(make: Any) -> None:
    model = make()
    plain = count_flops(model, images(1))
    patched = count_flops(expedite.patch(model, alpha=1, clusters=4), images(1))
    assert patched.unsupported == plain.unsupported == {}
    assert 0 < patched.operators < patched.total
