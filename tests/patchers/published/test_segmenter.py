"""Segmenter with both of its exits."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import expedite
from expedite import ExpediteError
from expedite.models.segmenter import MaskTransformer, Segmenter
from expedite.operators.clustering import Clustering, cluster, pool
from expedite.operators.reconstruction import reconstruct, token_weights
from expedite.patching.hooks import find_sessions
from tests.hosts import images, open_frames, segmenter
from tests.oracles import RELOCATED, normalized

CELLS = (4, 5)


pytestmark = pytest.mark.usefixtures("no_gradients")


def tokens_before(model: Segmenter, x: Tensor, alpha: int) -> Tensor:
    encoder = model.encoder
    patches = encoder.patch_embed(x).flatten(2).transpose(1, 2)
    prefix = encoder.cls_token.expand(len(x), -1, -1)
    tokens = torch.cat([prefix, patches], 1) + encoder.pos_embed
    for block in encoder.blocks[:alpha]:
        tokens = block(tokens)
    return tokens


def encode(model: Segmenter, x: Tensor, alpha: int) -> tuple[Tensor, Clustering]:
    """The cluster tokens after the last block, prefix first, by the operators alone."""
    tokens = tokens_before(model, x, alpha)
    body = tokens[:, 1:]
    centroids, record = cluster(body, (8, 8), CELLS, features=normalized(body), **RELOCATED)
    short = torch.cat([tokens[:, :1], centroids], 1)
    for block in model.encoder.blocks[alpha:]:
        short = block(short, mask(record, prefix=1))
    return short, record


def mask(record: Clustering, prefix: int = 0, queries: int = 0) -> Tensor:
    padded = nn.functional.pad(record.mass.log(), (prefix, queries))
    return padded[:, None, None]


def decode(model: Segmenter, body: Tensor, attend: Tensor | None) -> tuple[Tensor, Tensor]:
    """The decoder's blocks on projected tokens and class queries."""
    decoder = model.decoder
    assert isinstance(decoder, MaskTransformer)
    classes = decoder.cls_emb.shape[1]
    x = torch.cat([body, decoder.cls_emb.expand(len(body), -1, -1)], 1)
    for block in decoder.blocks:
        x = block(x, attend)
    return x[:, :-classes], x[:, -classes:]


def score(model: Segmenter, body: Tensor, queries: Tensor) -> Tensor:
    decoder = model.decoder
    assert isinstance(decoder, MaskTransformer)
    body, queries = decoder.decoder_norm(body), decoder.decoder_norm(queries)
    body = nn.functional.normalize(body @ decoder.proj_patch, dim=-1)
    queries = nn.functional.normalize(queries @ decoder.proj_classes, dim=-1)
    scores: Tensor = decoder.mask_norm(body @ queries.mT)
    return scores


def as_image(scores: Tensor) -> Tensor:
    return nn.functional.interpolate(
        scores.transpose(1, 2).reshape(len(scores), -1, 8, 8), size=(32, 32), mode="bilinear"
    )


def test_the_backbone_exit_equals_the_operators_by_hand() -> None:
    model, x = segmenter(), images()
    short, record = encode(model, x, alpha=1)
    full = model.encoder.norm(torch.cat([short[:, :1], reconstruct(short[:, 1:], record)], 1))
    expected = as_image(model.decoder(full[:, 1:]))
    found = expedite.patch(model, alpha=1, clusters=CELLS)(x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_the_plain_head_exit_runs_norm_and_decoder_on_clusters() -> None:
    model, x = segmenter(), images()
    short, record = encode(model, x, alpha=1)
    body = model.decoder.proj_dec(model.encoder.norm(short[:, 1:]))  # type: ignore[operator]
    scores = score(model, *decode(model, body, mask(record, queries=5)))
    expected = as_image(reconstruct(scores, record, delta=False))
    found = expedite.patch(model, alpha=1, clusters=CELLS, reconstruct_at="head")(x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_the_delta_head_exit_runs_the_decoders_blocks_alone_on_clusters() -> None:
    model, x = segmenter(), images()
    short, record = encode(model, x, alpha=1)
    full = model.encoder.norm(reconstruct(short[:, 1:], record))
    projected = model.decoder.proj_dec(full)  # type: ignore[operator]
    before = pool(projected, record)
    after, queries = decode(model, before, mask(record, queries=5))
    body = projected + token_weights(record).apply(after - before)
    expected = as_image(score(model, body, queries))
    found = expedite.patch(model, alpha=1, clusters=CELLS, reconstruct_at="head", delta=True)(x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("decoder", ["mask_transformer", "linear"])
@pytest.mark.parametrize("delta", [True, False])
@pytest.mark.parametrize("exit_at", ["backbone", "head"])
@pytest.mark.parametrize("distilled", [True, False])
def test_every_decoder_and_exit_at_any_size(
    decoder: str, delta: bool, exit_at: str, distilled: bool
) -> None:
    model = segmenter(decoder=decoder, distilled=distilled)
    for size in ((32, 32), (40, 24), (29, 47)):
        x = images(2, *size)
        plain = model(x)
        plan: dict[str, Any] = {"alpha": 2, "clusters": CELLS, "delta": delta}
        with expedite.patched(model, **plan, reconstruct_at=exit_at):
            patched = model(x)
            assert model.encoder(x[..., :24, :24]).shape[1] == model.encoder.prefix_tokens + 36
            assert open_frames(model) == 0
        assert patched.shape == plain.shape
        assert patched.isfinite().all()
        assert not torch.allclose(patched, plain)


@pytest.mark.parametrize(
    ("settings", "shapes"),
    [
        ({}, [(2, 20, 64)]),
        ({"reconstruct_at": "head"}, [(2, 20, 5)]),  # class scores
        ({"reconstruct_at": "head", "delta": True}, [(2, 20, 64), (2, 20, 64)]),
    ],
)
def test_how_often_grids_are_reconstructed(
    settings: dict[str, Any], shapes: list[tuple[int, ...]]
) -> None:
    model = expedite.patch(segmenter(), alpha=1, clusters=CELLS, **settings)
    (session,) = find_sessions(model)
    calls: list[tuple[int, ...]] = []
    weighed: list[int] = []
    session.reconstruction.register_forward_hook(lambda m, args, o: calls.append(args[0].shape))
    session.reconstruction.weigh.register_forward_hook(lambda *_: weighed.append(1))
    model(images())
    assert calls == shapes
    assert weighed == [1]


def test_the_encoder_alone_gives_the_full_grid_whatever_the_exit() -> None:
    model = segmenter()
    expected = expedite.patch(model, alpha=1, clusters=CELLS)(images())
    backbone = model.encoder(images())
    expedite.patch(model, alpha=1, clusters=CELLS, reconstruct_at="head", delta=True)
    assert torch.equal(model.encoder(images()), backbone)
    assert model(images()).shape == expected.shape


def test_head_exits_need_a_span_to_the_last_block() -> None:
    with pytest.raises(ExpediteError, match="must run to the last block"):
        expedite.patch(segmenter(), alpha=1, beta=2, clusters=CELLS, reconstruct_at="head")


def test_head_exits_of_a_chain_of_clusterings() -> None:
    chain = (expedite.Span(0, clusters=6), expedite.Span(2, clusters=CELLS))
    for delta in (True, False):
        plan = expedite.Plan(chain, reconstruct_at="head", delta=delta)
        model = expedite.patch(segmenter(), plan)
        assert model(images()).shape == (2, 5, 32, 32)
        assert open_frames(model) == 0


def test_a_failure_in_the_decoder_leaves_nothing_behind() -> None:
    model = expedite.patch(segmenter(), alpha=1, clusters=CELLS, reconstruct_at="head")
    expected = model(images())

    def fail(*_: Any) -> None:
        raise RuntimeError("on purpose")

    handle = model.decoder.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        model(images())
    handle.remove()
    assert open_frames(model) == 0
    assert torch.equal(model(images()), expected)


def test_other_classes_of_the_same_name_are_not_taken_for_it() -> None:
    other = type("Segmenter", (nn.Module,), {})()
    with pytest.raises(ExpediteError, match="no known host"):
        expedite.patch(other, alpha=1, clusters=CELLS)


@pytest.mark.parametrize("delta", [True, False])
def test_a_hook_on_the_last_block_sees_the_full_grid_also_with_the_exit_at_the_head(
    delta: bool,
) -> None:
    model = expedite.patch(segmenter(), alpha=1, clusters=4, reconstruct_at="head", delta=delta)
    shape, seen = model(images()).shape, []
    model.encoder.blocks[-1].register_forward_hook(lambda m, a, output: seen.append(output.shape))
    assert model(images()).shape == shape
    assert seen == [(2, 65, 64)]
