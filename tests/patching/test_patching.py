"""Every promise of design section 6 that holds for all hosts, one test each."""

import copy
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

import expedite
from expedite import ExpediteError, Plan, Span
from expedite.measure.speed import attention_kernel, twin
from expedite.patching.hooks import find_sessions
from tests.host_table import called
from tests.hosts import (
    enlarged_dpt,
    enlarged_meta,
    enlarged_vit_adapter,
    huggingface_beit,
    huggingface_sam,
    huggingface_swin,
    huggingface_swinv2,
    huggingface_vit,
    images,
    open_frames,
    segment_anything_sam,
    segmenter,
    timm_beit,
    timm_eva,
    timm_sam,
    timm_swin,
    timm_swinv2,
    timm_swinv2_cr,
    timm_vit,
    torchvision_swin,
    torchvision_swinv2,
    torchvision_vit,
)
from tests.published_dino import published_depth_anything, published_rotary_dino
from tests.published_swin import published_backbone, published_swin, published_swinv2

Make = Callable[[], nn.Module]
HOSTS: dict[str, Make] = {
    "timm": timm_vit,
    "eva": timm_eva,
    "timm BEiT": timm_beit,
    "torchvision": torchvision_vit,
    "transformers": huggingface_vit,
    "transformers BEiT": huggingface_beit,
    "segmenter": segmenter,
    "dpt": enlarged_dpt,
    "vit adapter": enlarged_vit_adapter,
    "meta": enlarged_meta,
    "segment_anything": segment_anything_sam,
    "timm SAM": timm_sam,
    "transformers SAM": huggingface_sam,
    "timm Swin": timm_swin,
    "timm SwinV2": timm_swinv2,
    "timm SwinV2Cr": timm_swinv2_cr,
    "torchvision Swin": torchvision_swin,
    "torchvision SwinV2": torchvision_swinv2,
    "transformers Swin": huggingface_swin,
    "transformers SwinV2": huggingface_swinv2,
    "published DINOv2": published_depth_anything,
    "published DINOv3": published_rotary_dino,
    "published Swin": published_swin,
    "published SwinV2": published_swinv2,
    "published Swin backbone": published_backbone,
}
PLAN = Plan((Span(alpha=1, clusters=4),))


@pytest.fixture(params=list(HOSTS.values()), ids=list(HOSTS))
def make(request: pytest.FixtureRequest) -> Make:
    maker: Make = request.param
    return maker


pytestmark = pytest.mark.usefixtures("no_gradients")


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """Everything a patch could leave behind on modules."""
    return {
        path: (type(module), sorted(vars(module)), *(len(table) for table in hook_tables(module)))
        for path, module in model.named_modules()
    }


def hook_tables(module: nn.Module) -> list[dict[int, Any]]:
    return [value for name, value in vars(module).items() if "hooks" in name and value is not None]


def test_an_image_alone_and_in_a_batch_is_the_same_but_for_rounding(make: Make) -> None:
    model = make()
    expedite.patch(model, PLAN)
    x = images(3)
    together, alone, nudged = (called(model, y) for y in (x, x[1:2], x[1:2] * (1 + 1e-6)))
    for one, expected, other in zip(together, alone, nudged, strict=True):
        most = expected.abs().max()
        assert (one[1:2] - expected).abs().max() <= 1e-4 * most
        assert (other - expected).abs().max() <= 1e-4 * most


def test_parameters_buffers_and_keys_stay_the_same(make: Make) -> None:
    model = make()
    keys, tensors = list(model.state_dict()), list(model.parameters())
    expedite.patch(model, PLAN)
    assert list(model.state_dict()) == keys
    model(images())
    assert list(model.state_dict()) == keys
    expedite.unpatch(model)
    assert list(model.state_dict()) == keys
    assert all(a is b for a, b in zip(model.parameters(), tensors, strict=True))


def test_a_checkpoint_loads_into_a_patched_model_which_saves_a_plain_one(make: Make) -> None:
    model, other = make(), make()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    expedite.patch(model, PLAN)
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(model(images()), expedite.patch(other, PLAN)(images()))
    fresh = make()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(images()), expedite.unpatch(model)(images()))


def test_the_patch_has_an_effect(make: Make) -> None:
    model = make()
    before = model(images())
    assert not torch.allclose(expedite.patch(model, PLAN)(images()), before)


def test_unpatch_restores_everything_bit_for_bit(make: Make) -> None:
    model = make()
    before, output = fingerprint(model), model(images())
    expedite.patch(model, PLAN)(images())
    expedite.unpatch(model)
    assert fingerprint(model) == before
    assert torch.equal(model(images()), output)


def test_other_peoples_hooks_stay(make: Make) -> None:
    model = make()
    seen: list[nn.Module] = []
    handle = model.register_forward_hook(lambda module, args, output: seen.append(module))
    expedite.unpatch(expedite.patch(model, PLAN))
    model(images())
    assert seen == [model]
    handle.remove()


@pytest.mark.parametrize("before_patching", [True, False])
def test_other_peoples_hooks_on_blocks_see_the_full_grid(make: Make, before_patching: bool) -> None:
    model = make()
    seen: list[Tensor] = []

    def look(module: nn.Module, args: Any, output: Any) -> None:
        seen.append(output if isinstance(output, Tensor) else output[0])

    expedite.patch(model, PLAN)
    block, output = next(find_sessions(model)).host.blocks[2], model(images())
    expedite.unpatch(model)
    if before_patching:
        block.register_forward_hook(look)
        expedite.patch(model, PLAN)
    else:
        expedite.patch(model, PLAN)
        block.register_forward_hook(look)
    assert torch.equal(model(images()), output)
    expedite.unpatch(model)(images())
    assert seen[0].shape == seen[1].shape


def test_patching_twice_reconfigures(make: Make) -> None:
    model = make()
    expedite.patch(model, PLAN)
    twice = expedite.patch(model, alpha=2, clusters=(3, 5), iterations=2)(images())
    assert len(list(find_sessions(model))) == 1
    assert torch.equal(
        twice, expedite.patch(make(), alpha=2, clusters=(3, 5), iterations=2)(images())
    )


def test_as_many_clusters_as_tokens_equal_the_plain_model(make: Make) -> None:
    model = make()
    before = model(images())
    assert torch.equal(expedite.patch(model, alpha=1, clusters=8)(images()), before)


def test_patched_is_undone_also_after_an_exception(make: Make) -> None:
    model = make()
    before = fingerprint(model)
    with pytest.raises(RuntimeError, match="on purpose"), expedite.patched(model, PLAN):
        raise RuntimeError("on purpose")
    assert fingerprint(model) == before


def test_patched_returns_to_the_plan_that_was_there(make: Make) -> None:
    model = expedite.patch(make(), PLAN)
    with expedite.patched(model, alpha=2, clusters=5):
        assert expedite.describe(model).plan != PLAN
    assert expedite.describe(model).plan == PLAN


def test_deepcopy_and_pickle_work_and_can_be_unpatched(make: Make) -> None:
    model = make()
    plain = model(images())
    output = expedite.patch(model, PLAN)(images())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(images()), output)
        assert torch.equal(expedite.unpatch(other)(images()), plain)
        assert torch.equal(model(images()), output)


def test_a_whole_model_survives_torch_save(make: Make, tmp_path: Path) -> None:
    model = expedite.patch(make(), PLAN)
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert torch.equal(loaded(images()), model(images()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_to_other_dtypes(make: Make, dtype: torch.dtype) -> None:
    model = expedite.patch(make(), PLAN)
    expected = model(images(16)).flatten(1)
    output = model.to(dtype)(images(16).to(dtype)).flatten(1)
    assert output.dtype == dtype
    # Of most images: where two clusters are equally near, rounding decides between them.
    error = ((output.float() - expected).abs().mean(1) / expected.abs().mean(1)).median()
    assert error < (1e-5 if dtype == torch.float64 else 0.2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(make: Make, dtype: torch.dtype) -> None:
    model = expedite.patch(make(), PLAN)
    with torch.autocast("cpu", dtype=dtype):
        assert model(images()).isfinite().all()


def test_inference_mode_then_gradients(make: Make) -> None:
    model = expedite.patch(make(), PLAN)
    with torch.inference_mode():
        model(images())
    with torch.enable_grad():
        model(images()).square().mean().backward()
    grads = [p.grad for n, p in model.named_parameters() if "blocks.0.attn.qkv.weight" in n]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_a_quantised_model_is_patched_and_unpatched_as_ever(make: Make) -> None:
    quantize: Any = torch.ao.quantization.quantize_dynamic
    model = quantize(make(), {nn.Linear}, dtype=torch.qint8)
    try:
        plain = model(images())
    except (TypeError, AttributeError) as error:
        pytest.skip(f"this model reads the weights of its layers, quantised or not: {error}")
    output = expedite.patch(model, PLAN)(images())
    assert not torch.allclose(output, plain)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(images()), output)
    assert torch.equal(expedite.unpatch(twin)(images()), plain)
    # Every token a cluster of its own: the blocks run as they did.
    assert torch.equal(expedite.patch(model, alpha=1, clusters=8)(images()), plain)
    assert torch.equal(expedite.unpatch(model)(images()), plain)
    later = quantize(expedite.patch(make(), PLAN), {nn.Linear}, dtype=torch.qint8)
    assert torch.equal(later(images()), output)


@pytest.mark.parametrize("batch", [1, 3])
def test_images_of_a_batch_are_independent(make: Make, batch: int) -> None:
    model = expedite.patch(make(), PLAN)
    together = model(images(batch))
    for index in range(batch):
        alone = model(images(batch)[index : index + 1])
        torch.testing.assert_close(together[index], alone[0], rtol=1e-4, atol=1e-4)


def test_an_empty_batch(make: Make) -> None:
    model = make()
    try:
        shape = model(images(0)).shape
    except RuntimeError as error:
        pytest.skip(f"this model takes no empty batch unpatched: {error}")
    assert expedite.patch(model, PLAN)(images(0)).shape == shape


def test_distributed_data_parallel(make: Make, tmp_path: Path) -> None:
    rendezvous = f"file://{tmp_path / 'store'}"
    dist.init_process_group("gloo", init_method=rendezvous, rank=0, world_size=1)
    try:
        model = make()
        expected = expedite.patch(copy.deepcopy(model), PLAN)(images())
        wrapped = DistributedDataParallel(model)
        # Patched inside its wrapper, and wrapped after it was patched.
        assert torch.equal(expedite.patch(wrapped, PLAN)(images()), expected)
        assert torch.equal(DistributedDataParallel(wrapped.module)(images()), expected)
    finally:
        dist.destroy_process_group()


def test_a_compiled_wrapper_is_seen_through(make: Make) -> None:
    model = make()
    compiled = torch.compile(model, backend="eager")
    assert isinstance(compiled, nn.Module)
    expedite.patch(compiled, PLAN)
    assert expedite.describe(model).plan == PLAN
    assert expedite.describe(compiled).path.startswith("_orig_mod")


# One of each way in which blocks are brought to run on clusters; tests/test_host_table.py compiles
# every host patched.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm", "transformers", "segment_anything", "timm Swin"])
def test_patch_and_unpatch_take_effect_on_compiled_models_that_ran(name: str) -> None:
    torch.compiler.reset()
    # Compiled, the operators take sums in another order, which a few channels magnify.
    close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-4)
    model = HOSTS[name]()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    plain = model(images())
    torch.testing.assert_close(compiled(images()), plain)
    patched = expedite.patch(model, PLAN)(images())
    close(compiled(images()), patched)
    expedite.unpatch(model)
    torch.testing.assert_close(compiled(images()), plain)
    other = expedite.patch(model, alpha=2, clusters=3)(images())
    close(compiled(images()), other)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm", "transformers", "dpt"])
def test_compiled_twins_are_not_taken_for_each_other(name: str) -> None:
    # But for hooks and plans, code compiled for one fits the others.
    plain = HOSTS[name]()
    plans = [Plan((Span(alpha, clusters),)) for alpha, clusters in ((1, 2), (1, 4), (2, 4))]
    models = [plain, *(expedite.patch(twin(plain), plan) for plan in plans)]
    expected = torch.stack([model(images()) for model in models])
    torch.compiler.reset()
    for index, model in enumerate(models):
        compiled = cast(nn.Module, torch.compile(model, backend="eager", dynamic=False))
        apart = (compiled(images()) - expected).flatten(1).abs().amax(1)
        assert apart.argmin() == index
        assert apart.min() < 1e-3 * apart.sum()


def test_blocks_compiled_one_by_one_are_patched_and_unpatched_too() -> None:
    torch.compiler.reset()
    model = timm_vit()
    for block in model.blocks:
        block.compile(backend="eager")
    plain = model(images())
    patched = expedite.patch(model, PLAN)(images())
    torch.testing.assert_close(patched, expedite.patch(timm_vit(), PLAN)(images()))
    torch.testing.assert_close(expedite.unpatch(model)(images()), plain)


def test_fused_attention_stays_fused(make: Make) -> None:
    model = make()
    before = attention_kernel(model, images())
    if before == "unfused":
        pytest.skip("the attention of this model is unfused unpatched")
    for log_mass in (True, False):
        expedite.patch(model, alpha=0, clusters=4, log_mass=log_mass)
        # The path that nn.MultiheadAttention has for itself takes no mask; the usual kernel does.
        masked = before.replace("native_multi_head_attention", "flash_attention_for_cpu")
        assert attention_kernel(model, images()) == (masked if log_mass else before)


class Masks(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects queries, keys and masks of every call of the CPU's fused attention."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default:
            mask = kwargs.get("attn_mask")
            self.calls += [] if mask is None else [(args[0], args[1], mask)]
        return func(*args, **kwargs)


def test_masks_are_such_as_fused_kernels_take(make: Make) -> None:
    model = expedite.patch(make().bfloat16(), alpha=0, clusters=4)
    with Masks() as masks, sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # or an error, on a CPU
        model(images().bfloat16())
    assert masks.calls
    for query, key, mask in masks.calls:
        # cuDNN reads a mask of another dtype as if it had the queries', and says nothing.
        assert mask.dtype == query.dtype
        assert mask.stride(-1) == 1
        mask.expand(*query.shape[:-1], key.shape[-2])


def test_masses_need_no_gradient() -> None:
    model = expedite.patch(timm_vit(), PLAN)
    with torch.enable_grad(), Masks() as masks:
        assert model(images()).requires_grad
    assert len(masks.calls) == 3
    assert not any(mask.requires_grad for _, _, mask in masks.calls)  # no fused kernel takes one


def test_two_threads_never_mix(make: Make) -> None:
    model = expedite.patch(make(), PLAN)
    inputs = [images(1), images(3) * 2]
    expected = [model(x) for x in inputs]
    failures: list[int] = []

    def work(index: int) -> None:
        with torch.no_grad():
            for _ in range(20):
                if not torch.allclose(model(inputs[index]), expected[index], atol=1e-5):
                    failures.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_two_models_never_mix(make: Make) -> None:
    one, other = expedite.patch(make(), PLAN), expedite.patch(make(), alpha=2, clusters=6)
    expected = one(images()), other(images())
    assert torch.equal(one(images()), expected[0])
    assert torch.equal(other(images()), expected[1])


def test_nested_calls_of_one_model_never_mix(make: Make) -> None:
    model = expedite.patch(make(), PLAN)
    outer, inner = model(images()), model(images(1) * 3)
    found: list[Tensor] = []

    def call_again(module: nn.Module, args: Any) -> None:
        if not found:
            found.append(torch.empty(0))
            found[0] = model(images(1) * 3)

    (session,) = find_sessions(model)
    handle = session.host.blocks[2].register_forward_pre_hook(call_again)
    assert torch.equal(model(images()), outer)
    assert torch.equal(found[0], inner)
    handle.remove()


def test_an_exception_in_the_middle_leaves_nothing_behind(make: Make) -> None:
    model = expedite.patch(make(), PLAN)
    expected = model(images())

    def fail(module: nn.Module, args: Any) -> None:
        raise RuntimeError("on purpose")

    (session,) = find_sessions(model)
    for module in (session.host.embedding, *session.host.blocks):
        handle = module.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="on purpose"):
            model(images())
        handle.remove()
        assert open_frames(model) == 0
    assert torch.equal(model(images()), expected)


def test_nothing_of_a_call_stays_after_it(make: Make) -> None:
    model = expedite.patch(make(), PLAN)
    model(images())
    assert open_frames(model) == 0


def test_several_spans() -> None:
    model = timm_vit(depth=6)
    apart = Plan((Span(1, clusters=6, beta=1), Span(4, clusters=4)))
    chained = Plan((Span(1, clusters=6, beta=2), Span(3, clusters=4)))
    counts = {plan: tokens_per_block(model, plan) for plan in (apart, chained)}
    assert counts[apart] == [65, 37, 65, 65, 17, 17]
    assert counts[chained] == [65, 37, 37, 17, 17, 17]


def tokens_per_block(model: nn.Module, plan: Plan) -> list[int]:
    """How many tokens each block's attention runs on."""
    counts: list[int] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, args: counts.append(args[0].shape[1]))
        for name, module in model.named_modules()
        if name.endswith("attn")
    ]
    with expedite.patched(model, plan):
        model(images())
    for hook in hooks:
        hook.remove()
    return counts


def test_alpha_counts_the_blocks_at_full_resolution() -> None:
    # The published repositories mean three different things by it.
    for alpha in range(4):
        counts = tokens_per_block(timm_vit(), Plan((Span(alpha, clusters=4),)))
        assert counts == [65] * alpha + [17] * (4 - alpha)


def test_a_chain_of_clusterings_returns_through_all_of_them() -> None:
    model = timm_vit(depth=6, class_token=False, global_pool="avg")
    plan = Plan((Span(1, clusters=6, beta=2), Span(3, clusters=4, beta=2)))
    expedite.patch(model, plan)
    assert model.forward_features(images()).shape == (2, 64, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 4, "clusters": 4}, "alpha=4 was asked of 4 blocks; alpha can be 0 to 3"),
        ({"alpha": -1, "clusters": 4}, "alpha=-1 was asked"),
        ({"alpha": 1, "beta": 4, "clusters": 4}, "beta can be at most 3"),
        ({"alpha": 1, "clusters": 9}, "9×9 clusters were asked where the timm VisionTransformer"),
        ({"alpha": 1, "clusters": (2, 3), "weights": "linear"}, "k can be at most 6"),
        ({"alpha": 1}, "exactly one of the two"),
        ({"clusters": 4}, "no alpha was given"),
        ({"alpha": 1, "clusters": 4, "keep": 0.5}, "exactly one of the two"),
        ({"alpha": 1, "clusters": 4, "reconstruct_at": "head"}, "does not work token by token"),
        ({"alpha": 1, "clusters": 4, "colour": 2}, "setting 'colour' was asked; known are"),
        ({"plan": PLAN, "alpha": 1}, "a plan was given together with alpha"),
        ({"plan": PLAN, "method": "paper"}, "a plan was given together with"),
    ],
)
def test_refuses_plans_that_cannot_be_carried_out(arguments: Any, message: str) -> None:
    model = timm_vit()
    before = fingerprint(model)
    with pytest.raises(ExpediteError, match=message):
        expedite.patch(model, **arguments)
    assert fingerprint(model) == before


def test_refuses_unknown_models_and_names_known_ones() -> None:
    message = r"no known host was found in .*Linear, in which no blocks with .*; known are Seg"
    with pytest.raises(ExpediteError, match=message):
        expedite.patch(nn.Linear(2, 2), PLAN)
    with pytest.raises(ExpediteError, match=message):
        expedite.describe(nn.Linear(2, 2))


class Collecting(type(timm_vit())):  # type: ignore[misc]
    """Reads its blocks in a way that no host knows."""

    def forward_features(self, x: Tensor) -> Tensor:
        tokens: Tensor = super().forward_features(x)
        return tokens


def test_refuses_models_that_run_in_a_way_of_their_own() -> None:
    with pytest.raises(ExpediteError, match=r"no known host was found in .*Collecting"):
        expedite.patch(Collecting(img_size=32, patch_size=8, embed_dim=32, num_heads=2), PLAN)


def test_blocks_taken_out_after_patching_are_noticed() -> None:
    model = expedite.patch(timm_vit(), PLAN)
    model.prune_intermediate_layers([2], prune_head=True)
    with pytest.raises(ExpediteError, match="blocks changed after it was patched"):
        model(images())
    assert open_frames(model) == 0


def test_a_mask_that_a_model_makes_itself_is_refused() -> None:
    class Masking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = segmenter().encoder

        def forward(self, x: Tensor) -> Tensor:
            grid = self.inner.patch_embed(x)
            tokens: Tensor = grid.flatten(2).mT
            for block in self.inner.blocks:
                tokens = block(tokens, torch.zeros(1, 1, 64, 64))
            return tokens

    model: Any = Masking()
    known = next(find_sessions(expedite.patch(segmenter(), PLAN))).host
    host = replace(
        known,
        model=model,
        backbone=model,
        blocks=tuple(model.inner.blocks),
        prefix_tokens=0,
        embedding=model.inner.patch_embed,
        head=None,
    )
    expedite.patch(model, PLAN, host=host)
    with pytest.raises(ExpediteError, match="was called with a mask"):
        model(images())


def test_refuses_to_choose_between_two_kinds_of_hosts() -> None:
    both = nn.ModuleDict({"left": timm_vit(), "right": segmenter()})
    with pytest.raises(ExpediteError, match="2 hosts were found, at 'left', 'right'"):
        expedite.patch(both, PLAN)


def test_a_grid_that_is_too_small_is_refused_when_it_is_met() -> None:
    model = expedite.patch(segmenter(), PLAN)
    with pytest.raises(ExpediteError, match="4×4 clusters were asked of a grid of 3×8"):
        model(images(height=12))
    assert open_frames(model) == 0


def test_patch_dropout_is_refused() -> None:
    model = expedite.patch(timm_vit(patch_drop_rate=0.5), PLAN).train()
    with pytest.raises(ExpediteError, match="patch dropout must be off"):
        model(images())


def test_masks_over_the_full_grid_are_refused() -> None:
    model = expedite.patch(timm_vit(), PLAN)
    with pytest.raises(ExpediteError, match="called with a mask"):
        model(images(), attn_mask=torch.zeros(65, 65))
    with pytest.raises(ExpediteError, match="called with a mask"):
        model(images(), is_causal=True)


def test_describe_says_what_is_there() -> None:
    model = segmenter()
    assert str(expedite.describe(model)).splitlines()[-1] == "not patched"
    expedite.patch(model, alpha=1, keep=0.25)
    found = expedite.describe(model, grid=(8, 12))
    assert found.kept == ((4, 6),)
    assert "blocks 2 to 4 run on 4×6 clusters, 24 of 96 tokens (25.0%)" in str(found)
    assert "any size, usually 8×12" in str(found)


def test_importing_expedite_imports_no_host_and_touches_no_gpu() -> None:
    code = (
        "import sys, expedite, torch; "
        "heavy = [name for name in ('timm', 'cv2', 'transformers', 'torchvision', 'matplotlib', "
        "'fvcore') if name in sys.modules]; "
        "assert not heavy, heavy; assert not torch.cuda.is_initialized()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
