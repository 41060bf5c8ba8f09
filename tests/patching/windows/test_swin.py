"""Swin and SwinV2 from their libraries."""

from collections.abc import Callable
from math import log, log2
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import expedite
from expedite import ExpediteError, Plan, Span
from expedite.measure.flops import count_flops
from expedite.operators import clustering
from expedite.operators.relocation import SHARE
from expedite.operators.windows import cluster_windows, partition, reconstruct_windows, unpartition
from expedite.patching.hooks import find_sessions
from expedite.patching.host import attribute
from expedite.patching.positions.bias import spread, window_bias
from expedite.patching.positions.continuous import continuous_bias, logarithmic_bias
from expedite.patching.windows.shifted_blocks import shift_mask
from tests.hosts import (
    counted_reconstructions,
    huggingface_swin,
    huggingface_swinv2,
    images,
    open_frames,
    randomized,
    timm_swin,
    timm_swinv2,
    timm_swinv2_cr,
    torchvision_swin,
    torchvision_swinv2,
    without_positions,
)
from tests.oracles import IN_WINDOWS
from tests.patching.test_oracles import HARD, blocky
from tests.published_swin import published_backbone

CPU = torch.device("cpu")
SWINS: dict[str, Callable[..., Any]] = {
    "timm": timm_swin,
    "timm V2": timm_swinv2,
    "timm V2Cr": timm_swinv2_cr,
    "torchvision": torchvision_swin,
    "torchvision V2": torchvision_swinv2,
    "transformers": huggingface_swin,
    "transformers V2": huggingface_swinv2,
    "published backbone": published_backbone,
}
swins = pytest.mark.parametrize("make", list(SWINS.values()), ids=list(SWINS))

pytestmark = pytest.mark.usefixtures("no_gradients")


# Windows that divide the maps of 16×16 and 8×8, that leave a border of 1 or 3, of 4 or 2.
@pytest.mark.parametrize("window", [4, 5, 6])
@pytest.mark.parametrize(
    "settings", [{}, {"delta": False}, {"log_mass": False}, {"window_borders": False}]
)
@swins
def test_full_windows_without_the_shortcut_equal_the_plain_model(
    make: Any, settings: dict[str, Any], window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(window_size=window)
    plain = model(images())
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    for alpha, beta in ((0, None), (1, 2), (4, None)):
        expedite.patch(model, alpha=alpha, beta=beta, clusters=window, **HARD, **settings)
        torch.testing.assert_close(model(images()), plain, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("size", [(40, 24), (36, 52)])
@swins
def test_full_windows_on_maps_of_other_shapes(
    make: Any, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = make(window_size=5, any_size=True), images(3, *size)
    plain = model(x)
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    for alpha in (0, 4):
        expedite.patch(model, alpha=alpha, clusters=5, **HARD)
        torch.testing.assert_close(model(x), plain, rtol=2e-3, atol=2e-3)


def test_windows_that_are_not_square(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = timm_swin(window_size=(8, 3), img_size=(40, 24)), images(3, 40, 24)
    plain = model(x)
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    expedite.patch(model, alpha=0, clusters=(8, 3), **HARD)
    torch.testing.assert_close(model(x), plain, rtol=2e-3, atol=2e-3)
    monkeypatch.undo()
    assert expedite.patch(model, alpha=0, clusters=(5, 2))(x).shape == plain.shape


# 16×16 tokens in windows of 8: shifts of 4 and 2; of 12, with 8 rows of padding: shifts of 6 and 3.
@pytest.mark.parametrize("window", [8, 12])
@pytest.mark.parametrize("settings", [{}, {"delta": False}, {"window_borders": False}])
@swins
def test_cells_of_equal_tokens_cluster_without_loss(
    make: Any, settings: dict[str, Any], window: int
) -> None:
    model = without_positions(make(window_size=window, depths=[4], num_heads=[2]))
    x = blocky(images(), 2)
    plain = model(x)
    expedite.patch(model, alpha=0, clusters=window // 2, **settings, **HARD)
    torch.testing.assert_close(model(x), plain, rtol=1e-3, atol=1e-3)
    expedite.patch(model, alpha=0, clusters=window // 4, **settings, **HARD)
    assert not torch.allclose(model(x), plain, rtol=1e-2, atol=1e-2)


def test_cells_of_equal_tokens_in_a_later_stage() -> None:
    # 16×16 tokens of the second stage, constant over cells of 2×2.
    model = without_positions(timm_swin(img_size=64, depths=(2, 4)))
    x = blocky(blocky(images(2, 64, 64), 4), 2)
    plain = model(x)
    expedite.patch(model, alpha=2, clusters=4, **HARD)
    torch.testing.assert_close(model(x), plain, rtol=1e-3, atol=1e-3)


def test_offsets_between_those_of_tokens_are_read_bilinearly() -> None:
    """Against a loop over pairs of cells: windows of 8×6 tokens, 5×4 cells each."""
    table = torch.randn(15 * 11, 3)
    found = window_bias(table, (8, 6), (5, 4))
    grid = table.reshape(15, 11, 3)
    for q in range(20):
        for k in range(20):
            down = (q // 4 - k // 4) * 8 / 5 + 7
            right = (q % 4 - k % 4) * 6 / 4 + 5
            top, left = int(down), int(right)
            corners = grid[top : top + 2, left : left + 2]
            rows = torch.tensor([1 - down + top, down - top])[: len(corners), None, None]
            columns = torch.tensor([1 - right + left, right - left])[: corners.shape[1], None]
            wanted = (corners * rows * columns).sum((0, 1))
            torch.testing.assert_close(found[:, q, k], wanted)


@pytest.mark.parametrize("trained", [(8, 6), (12, 16)])
def test_the_mlp_is_asked_for_the_offsets_between_cells(trained: tuple[int, int]) -> None:
    """Against a loop over pairs of cells: windows of 8×6 tokens, 5×4 cells each."""
    mlp = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 3, bias=False))
    found = continuous_bias(mlp, (8, 6), (5, 4), trained)

    def coordinate(cells: int, step: float, whole: int) -> float:
        offset = 8 * cells * step / (whole - 1)
        return (1 if offset > 0 else -1) * log2(abs(offset) + 1) / 3

    for q in range(20):
        for k in range(20):
            down = coordinate(q // 4 - k // 4, 8 / 5, trained[0])
            right = coordinate(q % 4 - k % 4, 6 / 4, trained[1])
            wanted = 16 * mlp(torch.tensor([down, right])).sigmoid()
            torch.testing.assert_close(found[:, q, k], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("window", "trained"), [(8, 0), (8, 6)])
def test_every_token_gets_the_librarys_own_positions(window: int, trained: int) -> None:
    attention = timm_swin(window_size=window).layers[0].blocks[0].attn
    table = attention.relative_position_bias_table
    found = window_bias(table, (window, window), (window, window))
    assert torch.equal(found, attention._get_rel_pos_bias()[0])
    model = timm_swinv2(window_size=window, pretrained_window_sizes=(trained, trained))
    attention = model.layers[0].blocks[0].attn
    side = trained or window
    found = continuous_bias(attention.cpb_mlp, (window,) * 2, (window,) * 2, (side, side))
    own = attention.cpb_mlp(attention.relative_coords_table).flatten(0, 2)
    expected = 16 * own[attention.relative_position_index].permute(2, 0, 1).sigmoid()
    torch.testing.assert_close(found, expected)
    attention = timm_swinv2_cr(window_size=window).stages[0].blocks[0].attn
    found = logarithmic_bias(attention.meta_mlp, (window,) * 2, (window,) * 2)
    torch.testing.assert_close(found, attention._relative_positional_encodings()[0])


@pytest.mark.parametrize("shift", [(2, 2), (1, 2), (0, 2)])
def test_masks_are_those_that_timm_makes_of_the_smaller_map(shift: tuple[int, int]) -> None:
    block = timm_swin().layers[0].blocks[1]
    block.window_size, block.window_area, block.shift_size = (4, 5), 20, shift
    expected = block.get_attn_mask(torch.zeros(1, 12, 10, 1))
    (found,) = shift_mask(3, 2, 4, 5, *shift, CPU)
    assert torch.equal(found, expected)


def attend(
    block: Any, x: Tensor, bias: Tensor, log_mass: Tensor, shift: int, masked: int | None = None
) -> Tensor:
    """Attention on a map (B, 8, 8, C) that is shifted in windows of 4×4, written out.

    `masked` is the shift that is masked for, if not the same.
    """
    attention, width = block.attn, x.shape[-1]
    moved = x.roll((-shift, -shift), (1, 2))
    mass = partition(log_mass[..., None].roll((-shift, -shift), (1, 2)), (4, 4)).view(-1, 1, 1, 16)
    windows = partition(moved, (4, 4)).flatten(1, 2)
    has_cosines = hasattr(attention, "logit_scale")
    qkv = windows @ attention.qkv.weight.mT
    if has_cosines:
        qkv = qkv + torch.cat([attention.q_bias, torch.zeros(width), attention.v_bias])
    else:
        qkv = qkv + attention.qkv.bias
    q, k, v = (part.view(-1, 16, 2, width // 2).transpose(1, 2) for part in qkv.split(width, -1))
    if has_cosines:
        scale = attention.logit_scale.clamp(max=log(100)).exp()
        q, k = F.normalize(q, dim=-1) * scale, F.normalize(k, dim=-1)
    else:
        q = q / (width // 2) ** 0.5
    scores = q @ k.mT + bias + mass
    if shift:
        region = torch.zeros(1, 8, 8, 1)
        region[:, -(masked or shift) :] += 1
        region[:, :, -(masked or shift) :] += 2
        region = partition(region, (4, 4)).view(4, 16)
        apart = (region[:, None] != region[:, :, None]).repeat(len(x), 1, 1)[:, None]
        scores = scores.masked_fill(apart, float("-inf"))
    y = attention.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(-1, 4, 4, width))
    return unpartition(y, (2, 2)).roll((shift, shift), (1, 2))


def test_a_kept_shift_masks_as_the_published_code_does() -> None:
    # Three windows of 5 cells; 6 is the shift of windows of 12 tokens, whose slices are these.
    places = torch.zeros(15)
    for number, part in enumerate((slice(0, -5), slice(-5, -6), slice(-6, None))):
        places[part] = number
    regions = (places[:, None] * 3 + places).reshape(3, 5, 3, 5).transpose(1, 2).reshape(9, 25)
    (found,) = shift_mask(3, 3, 5, 5, 6, 6, CPU)
    assert torch.equal(found != 0, regions[:, None] != regions[:, :, None])


def test_resized_tables_are_the_librarys_own_resized() -> None:
    model = timm_swin()
    block = model.layers[0].blocks[0]
    table = block.attn.relative_position_bias_table  # of windows of 8×8
    expected = F.interpolate(table.mT.reshape(1, 2, 15, 15), (7, 7), mode="bilinear")
    found = window_bias(table, (8, 8), (4, 4), resized=True)
    torch.testing.assert_close(found, spread(expected.flatten(2)[0].mT, (4, 4)))
    resized = expedite.patch(model, alpha=1, clusters=4, position_tables="resized")(images())
    table.copy_(table + 1)  # which a softmax cancels
    torch.testing.assert_close(model(images()), resized, rtol=1e-3, atol=1e-3)
    read = expedite.patch(model, alpha=1, clusters=4)(images())
    assert not torch.allclose(read, resized, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("as_published", [False, True])
@pytest.mark.parametrize("make", [timm_swin, timm_swinv2])
def test_blocks_equal_the_operators_by_hand(make: Any, as_published: bool) -> None:
    # 16×16 tokens in windows of 8 clustered to 4×4: a map of 8×8, shifted by 2; of 12×12 tokens
    # those that fill the windows up are clustered too, and masks are for the 4 of 8×8.
    model = make(img_size=24) if as_published else make()
    x = images()[..., :24, :24] if as_published else images()
    masked = 4 if as_published else None
    first, shifted, straight, last = model.layers[0].blocks
    is_post_norm = make is timm_swinv2
    tokens = first(model.patch_embed(x))
    features = tokens if is_post_norm else shifted.norm1(tokens)
    moving = {**IN_WINDOWS, "relocated": 0.0} if is_post_norm else IN_WINDOWS
    settings = {**moving, "padding": as_published}
    short, record = cluster_windows(tokens, (8, 8), (4, 4), features=features, **settings)
    mass = record.mass.log()
    for block, shift in ((shifted, 2), (straight, 0), (last, 2)):
        if is_post_norm:
            bias = continuous_bias(block.attn.cpb_mlp, (8, 8), (4, 4), (8, 8))
            y = attend(block, short, bias, mass, shift, masked)
            short = short + block.norm1(y)
            short = short + block.norm2(block.mlp(short))
        else:
            bias = window_bias(block.attn.relative_position_bias_table, (8, 8), (4, 4))
            short = short + attend(block, block.norm1(short), bias, mass, shift, masked)
            short = short + block.mlp(block.norm2(short))
    full = reconstruct_windows(short, record)
    expected = model.forward_head(model.norm(model.layers[1](full)))
    options: Any = {"window_padding": as_published, "kept_shift": as_published}
    expedite.patch(model, alpha=1, clusters=4, **options)
    torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-3)


@swins
def test_a_call_changes_nothing_on_the_model(make: Any) -> None:
    model = make(window_size=5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(images())
    settings = [(m.window_size, m.shift_size) for m in model.modules() if hasattr(m, "shift_size")]
    expedite.patch(model, alpha=1, clusters=3)(images())
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert settings == [
        (m.window_size, m.shift_size) for m in model.modules() if hasattr(m, "shift_size")
    ]


@swins
def test_unpatch_is_exact_after_other_sizes_and_an_exception(make: Any) -> None:
    model = make(window_size=5, any_size=True)
    inputs = [images(1, *size) for size in ((32, 32), (40, 24), (36, 52))]
    plain = [model(x) for x in inputs]
    expedite.patch(model, alpha=1, clusters=3)
    patched = [model(x) for x in inputs]
    assert not any(map(torch.equal, patched, plain))

    def fail(module: nn.Module, args: Any) -> None:
        raise RuntimeError("on purpose")

    block = next(find_sessions(model)).host.blocks[2]
    handle = block.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        model(inputs[1])
    handle.remove()
    assert all(map(torch.equal, [model(x) for x in inputs], patched))
    expedite.unpatch(model)
    assert all(map(torch.equal, [model(x) for x in inputs], plain))


@pytest.mark.parametrize(
    ("indices", "options", "maps"),
    [
        (None, {}, 1),
        ([0], {"intermediates_only": True}, 1),
        ([1], {"stop_early": True, "norm": True}, 1),
    ],
)
@pytest.mark.parametrize("make", [timm_swin, timm_swinv2])
def test_each_span_is_reconstructed_once_for_the_taps_of_timm(
    make: Any, indices: Any, options: dict[str, Any], maps: int
) -> None:
    model = make()
    plain = model.forward_intermediates(images(), indices=indices, **options)
    expedite.patch(model, alpha=1, clusters=4)
    with counted_reconstructions(model) as calls:
        patched = model.forward_intermediates(images(), indices=indices, **options)
    assert len(calls) == maps
    pairs = list(zip(tensors(patched), tensors(plain), strict=True))
    assert all(tap.shape == before.shape for tap, before in pairs)
    assert not any(torch.allclose(tap, before) for tap, before in pairs)
    assert open_frames(model) == 0


def test_the_last_stage_is_not_reconstructed_for_nobody() -> None:
    model = timm_swin()
    expedite.patch(model, alpha=4, clusters=4)
    with counted_reconstructions(model) as calls:
        model.forward_intermediates(images(), indices=[0], intermediates_only=True)
        assert not calls
        model.forward_intermediates(images(), indices=[0])
        model.forward_features(images())
        model(images())
    assert len(calls) == 3


def tensors(nested: Any) -> list[Tensor]:
    return [nested] if isinstance(nested, Tensor) else [t for part in nested for t in tensors(part)]


@pytest.mark.parametrize(
    "name", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "swinv2_cr_tiny_ns_224"]
)
def test_features_only_models_of_timm_give_full_maps(name: str) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"img_size": 128, "embed_dim": 16, "num_heads": (1, 2, 2, 2)}
    sizes |= {"depths": (1, 1, 3, 1), "window_size": 4, "out_indices": (0, 2, 3)}
    model = timm.create_model(name, features_only=True, **sizes)
    randomized(model)
    x = images(1, 128, 128)
    plain = model(x)
    expedite.patch(model, alpha=3, clusters=3)
    with counted_reconstructions(model) as calls:
        patched = model(x)
    assert [tap.shape for tap in patched] == [tap.shape for tap in plain]
    assert len(calls) == 1
    assert torch.equal(patched[0], plain[0])  # before the span
    assert not torch.equal(patched[1], plain[1])
    assert all(map(torch.equal, expedite.unpatch(model)(x), plain))


TORCHVISION_NAMES = (
    ("patch_embed.proj", "features.0.0"),
    ("patch_embed.norm", "features.0.2"),
    ("layers.0.blocks", "features.1"),
    ("layers.1.downsample", "features.2"),
    ("layers.1.blocks", "features.3"),
    ("mlp.fc1", "mlp.0"),
    ("mlp.fc2", "mlp.3"),
    ("head.fc", "head"),
)


def as_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of timm's models of two stages under torchvision's names."""
    names = {name: name for name in state}
    for old, new in TORCHVISION_NAMES:
        names = {name: found.replace(old, new) for name, found in names.items()}
    found = {names[name]: tensor for name, tensor in state.items()}
    for name in [name for name in found if name.endswith("q_bias")]:
        q, v = found.pop(name), found.pop(name.replace("q_bias", "v_bias"))
        found[name.replace("q_bias", "qkv.bias")] = torch.cat([q, torch.zeros_like(q), v])
    return found


@pytest.mark.parametrize(
    ("make", "other"), [(timm_swin, torchvision_swin), (timm_swinv2, torchvision_swinv2)]
)
def test_timm_and_torchvision_agree(make: Any, other: Any) -> None:
    # Where maps are whole windows: they pad and shift in different orders.
    one, two = make(), other()
    missing, unexpected = two.load_state_dict(as_torchvision(one.state_dict()), strict=False)
    assert not unexpected
    assert not [name for name in missing if not name.endswith(("_index", "_table"))]
    torch.testing.assert_close(two(images()), one(images()), rtol=1e-3, atol=1e-3)
    for plan in (Plan((Span(1, clusters=4),)), Plan((Span(2, clusters=(5, 6)), Span(4, keep=0.5)))):
        found, expected = (expedite.patch(model, plan)(images()) for model in (two, one))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_keys_have_no_bias_in_torchvisions_v2_whatever_stands_there() -> None:
    model = torchvision_swinv2()
    expected = expedite.patch(model, alpha=0, clusters=4)(images())
    bias = model.features[1][0].attn.qkv.bias
    bias[32:64] += 7  # on all of a head's channels alike the softmax would not show it, but cosines
    torch.testing.assert_close(model(images()), expected)


def test_backbones_cut_out_of_torchvision_give_full_maps() -> None:
    from torchvision.models._utils import IntermediateLayerGetter  # type: ignore[import-untyped]

    model = IntermediateLayerGetter(torchvision_swin().features, {"1": "fine", "3": "coarse"})
    plain = model(images())
    expedite.patch(model, alpha=1, clusters=4)
    assert expedite.describe(model).blocks == 6
    found = model(images())
    assert {name: x.shape for name, x in found.items()} == {
        "fine": (2, 16, 16, 32),
        "coarse": (2, 8, 8, 64),
    }
    assert not torch.allclose(found["fine"], plain["fine"])
    detector = nn.ModuleDict({"body": nn.Sequential(torchvision_swinv2().features, nn.ReLU())})
    assert expedite.describe(expedite.patch(detector, alpha=1, clusters=4)).path == "body.0"


def test_spans_in_several_stages_and_chained_in_one() -> None:
    model = timm_swin(img_size=64)
    seen: list[int] = []
    for stage in model.layers:
        for block in stage.blocks:
            block.norm2.register_forward_pre_hook(
                lambda module, args: seen.append(args[0].shape[1:-1].numel())
            )
    apart = Plan((Span(1, clusters=4, beta=1), Span(3, clusters=6), Span(4, clusters=3)))
    chained = Plan((Span(1, clusters=6), Span(2, keep=0.5), Span(5, clusters=3)))
    for plan, sides in ((apart, [32, 16, 32, 24, 6, 6]), (chained, [32, 24, 16, 16, 16, 6])):
        seen.clear()
        expedite.patch(model, plan)
        model(images(1, 64, 64))
        assert seen == [side**2 for side in sides]


def test_describe_speaks_of_the_stage() -> None:
    model = expedite.patch(timm_swin(img_size=64), alpha=4, keep=0.25)
    assert str(expedite.describe(model)) == (
        "timm SwinTransformer: 6 blocks, grid 32×32, windows of 8×8, 0 prefix tokens\n"
        "taps: outputs of stages, of the full map in any case; reconstruct_at: backbone\n"
        "blocks 5 to 6 run on 8×8 clusters in windows of 4×4, 64 of 256 tokens (25.0%)"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clusters": 9}, "9×9 clusters were asked where the timm Swin.* has 8×8 tokens in a win"),
        ({"clusters": 4, "beta": 4}, "stage 1 that ends at block 4; beta can be at most 3"),
        ({"clusters": 4, "alpha": 6}, "alpha=6 was asked of 6 blocks; alpha can be 0 to 5"),
        (
            {"clusters": 2, "weights": "linear"},
            "k=8 nearest clusters were asked of 2×2; k can be at most 4",
        ),
        ({"clusters": 4, "reconstruct_at": "head"}, "'backbone' works"),
    ],
)
def test_refuses_plans_that_cannot_be_carried_out(arguments: Any, message: str) -> None:
    with pytest.raises(ExpediteError, match=message):
        expedite.patch(timm_swin(), **{"alpha": 1, **arguments})


def test_a_window_that_a_later_stage_has_not() -> None:
    # The second stage has 4×4 tokens, and so timm makes its windows of 4×4.
    with pytest.raises(ExpediteError, match=r"5×5 clusters were .* has 4×4 tokens in a"):
        expedite.patch(timm_swin(patch_size=4), alpha=4, clusters=5)


def test_maps_smaller_than_a_window_are_refused() -> None:
    model = timm_swin(any_size=True)
    expedite.patch(model, alpha=4, clusters=4)
    message = "alpha=4 was asked of a timm SwinTransformer whose map there is 6×10, smaller than a"
    with pytest.raises(ExpediteError, match=message):
        model(images(1, 24, 40))
    assert open_frames(model) == 0
    assert model(images(1, 40, 40)).isfinite().all()


@swins
def test_dropout_and_stochastic_depth_are_those_of_training(make: Any) -> None:
    model = expedite.patch(make(**DROPOUT[make]), alpha=0, clusters=4)
    assert torch.equal(model(images()), model(images()))
    assert not torch.equal(model.train()(images()), model(images()))


DROPOUT: dict[Any, dict[str, Any]] = {
    timm_swin: {"drop_path_rate": 0.1, "attn_drop_rate": 0.1, "proj_drop_rate": 0.1},
    timm_swinv2: {"drop_path_rate": 0.1, "attn_drop_rate": 0.1, "proj_drop_rate": 0.1},
    timm_swinv2_cr: {"drop_path_rate": 0.1, "attn_drop_rate": 0.1, "proj_drop_rate": 0.1},
    torchvision_swin: {"dropout": 0.1},
    torchvision_swinv2: {"attention_dropout": 0.1},
    huggingface_swin: {"hidden_dropout_prob": 0.1, "drop_path_rate": 0.1},
    huggingface_swinv2: {"attention_probs_dropout_prob": 0.1},
    published_backbone: {"drop": 0.1, "drop_path": 0.1},
}


@swins
def test_nothing_is_left_uncounted(make: Any) -> None:
    model = make()
    plain = count_flops(model, images(1))
    patched = count_flops(expedite.patch(model, alpha=1, clusters=4), images(1))
    assert patched.unsupported == plain.unsupported == {}
    assert 0 < patched.operators < patched.total


def shares_that_move(model: nn.Module) -> dict[int, float]:
    """Of the clusters of every span, by the index of its first block."""
    (session,) = find_sessions(model)
    layers = {first: layer.get_submodule("cluster") for first, layer in session.clusterings.items()}
    return {first: attribute(layer, "relocated") for first, layer in layers.items()}


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        ({}, SHARE),
        ({"window_borders": False}, 0.0),
        ({"hard": False}, 0.0),
        ({"relocated": 0.1}, 0.1),
    ],
)
def test_clusters_move_within_windows_alone(settings: dict[str, Any], share: float) -> None:
    model = expedite.patch(timm_swin(), alpha=0, clusters=5, **settings)
    assert shares_that_move(model) == {0: share}


@pytest.mark.parametrize("make", [timm_swinv2, timm_swinv2_cr, torchvision_swinv2])
def test_clusters_of_a_swinv2_move_where_asked_alone(make: Any) -> None:
    for asked, share in ((None, 0.0), (0.1, 0.1)):
        model = expedite.patch(make(), Plan((Span(0, 3),), relocated=asked))
        assert shares_that_move(model) == {0: share}


def test_clusters_stay_where_a_span_goes_on_from_them() -> None:
    chained = Plan((Span(0, 6, beta=2), Span(2, 4, beta=2), Span(4, 4)))
    moved = shares_that_move(expedite.patch(timm_swin(), chained))
    assert moved == {0: 0.0, 2: SHARE, 4: SHARE}  # the last is of another stage
