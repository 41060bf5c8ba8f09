"""The table in docs/works_with.md: ways in which people wrap, train, copy and run models.

`tests/test_works_with.py` goes each that is quick and whose library is there; `python -m
benchmarks.works_with` goes all and writes the table.
"""

import copy
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import expedite
from expedite import ExpediteError, Plan
from expedite.patching.hooks import find_sessions
from expedite.plan import make_plan
from tests.hosts import huggingface_beit, images, timm_vit, torchvision_swin

DOCS = Path(__file__).parents[1] / "docs" / "works_with.md"
HOSTS: dict[str, Callable[[], Any]] = {
    "timm ViT": timm_vit,
    "transformers BEiT": huggingface_beit,
    "torchvision Swin": torchvision_swin,
}
PLAN = make_plan(1, 4)
LIGHT = make_plan(1, 4, method="paper", k=4, iterations=1)  # compiles in a tenth of the time
WORKS, REFUSED, NOT_DEFINED = "works", "refused", "–"
Make = Callable[[], Any]
Go = Callable[[Make], None]


@dataclass(frozen=True)
class Way:
    """A line of the table.

    Args:
        name: The first column.
        go: Goes it on models that are made.
        checked: The last column, where nothing is refused.
        needs: A library that is not among the tests' own.
        is_slow: Whether it compiles, which other tests do.
    """

    name: str
    go: Go
    checked: str
    needs: str = ""
    is_slow: bool = False


WAYS: list[Way] = []


def way(name: str, checked: str, needs: str = "", is_slow: bool = False) -> Callable[[Go], Go]:
    def add(go: Go) -> Go:
        WAYS.append(Way(name, go, checked, needs, is_slow))
        return go

    return add


def patched(make: Make, plan: Plan = PLAN) -> Any:
    return expedite.patch(make(), plan)


def run(model: Any, x: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        output: Tensor = model(images() if x is None else x)
    return output


def close(found: Tensor, due: Tensor) -> None:
    torch.testing.assert_close(found, due, rtol=1e-4, atol=1e-4)


def blocks_of(model: nn.Module, plan: Plan = PLAN) -> tuple[nn.Module, ...]:
    """The blocks of a model, patched or not."""
    found = list(find_sessions(model))
    if found:
        return found[0].host.blocks
    with expedite.patched(model, plan):
        return blocks_of(model)


def path_of(model: nn.Module, part: nn.Module) -> str:
    paths: dict[int, str] = {id(module): path for path, module in model.named_modules()}
    return paths[id(part)]


def gradients(run: Callable[[], Tensor], model: nn.Module) -> list[Tensor]:
    model.zero_grad()
    run().square().mean().backward()  # type: ignore[no-untyped-call]
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def same_gradients(model: nn.Module, change: Callable[[], Any]) -> None:
    """The same before and after `change`."""
    due = gradients(lambda: model(images()), model)
    change()
    for mine, theirs in zip(gradients(lambda: model(images()), model), due, strict=True):
        close(mine, theirs)


class NotPossible(Exception):
    """A way that the unpatched model cannot be gone either."""


def where_possible(make: Make, act: Callable[[Any], Any]) -> None:
    """Do with a patched model what can be done with an unpatched one."""
    try:
        act(patched(make))
    except ExpediteError:
        raise
    except Exception as error:
        with pytest.raises(type(error)):
            act(make())
        raise NotPossible from error


def checkpoint_blocks(model: Any, use_reentrant: bool) -> None:
    for block in blocks_of(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=use_reentrant)


@contextmanager
def alone() -> Iterator[None]:
    """A group of one process, on the CPU."""
    dist.init_process_group(
        "gloo", store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def around(make: Make, wrap: Callable[[Any], Any]) -> None:
    """Patched before it is wrapped, or after; unpatched in its wrapper."""
    due, plain = run(patched(make)), run(make())
    close(run(wrap(patched(make))), due)
    wrapped = wrap(make())
    close(run(expedite.patch(wrapped, PLAN)), due)
    close(run(expedite.unpatch(wrapped)), plain)


@way("torch.compile", "one graph, before and after patching", is_slow=True)
def compiled(make: Make) -> None:
    torch.compiler.reset()
    model = make()
    whole: Any = torch.compile(model, fullgraph=True, backend="eager")
    close(run(whole), run(model))
    expedite.patch(model, LIGHT)
    close(run(whole), run(model))


@way("torch.compile of each block", "patched after it was compiled", is_slow=True)
def compiled_blocks(make: Make) -> None:
    torch.compiler.reset()
    model = make()
    for block in blocks_of(model):
        block.compile(backend="eager")
    expedite.patch(model, LIGHT)
    close(run(model), run(patched(make, LIGHT)))


@way("torch.export", "the program answers as the model does", is_slow=True)
def exported(make: Make) -> None:
    model = patched(make, LIGHT)
    with torch.no_grad():
        program = torch.export.export(model, (images(),))
    close(run(program.module()), run(model))


@way("torch.jit.trace", "the trace answers as the model does")
def traced(make: Make) -> None:
    model = patched(make, LIGHT)
    with torch.no_grad():
        trace: Any = torch.jit.trace(model, images(), check_trace=False)  # type: ignore[no-untyped-call]
    close(run(trace), run(model))


@way("torch.jit.script", "")
def scripted(make: Make) -> None:
    where_possible(make, torch.jit.script)


@way("torch.onnx.export, dynamo=False", "")
def old_onnx(make: Make) -> None:
    export: Any = torch.onnx.export  # a stream will do, against what its annotations say
    where_possible(make, lambda m: export(m.eval(), (images(),), io.BytesIO(), dynamo=False))


@way("torch.fx, of a patched model", "")
def symbolic(make: Make) -> None:
    where_possible(make, torch.fx.symbolic_trace)


@way("DistributedDataParallel", "patched before or inside; unpatched inside")
def distributed(make: Make) -> None:
    with alone():
        around(make, DistributedDataParallel)


@way("FSDP1", "each block wrapped; patched before or inside; unpatched inside")
def fully_sharded(make: Make) -> None:
    def wrap(model: Any) -> Any:
        kinds = {type(block) for block in blocks_of(model)}
        policy = ModuleWrapPolicy(kinds)
        return FullyShardedDataParallel(
            model, auto_wrap_policy=policy, device_id=torch.device("cpu"), use_orig_params=True
        )

    with alone():
        around(make, wrap)


@way("FSDP2", "fully_shard of each block and all; patched before or after; unpatched")
def sharded(make: Make) -> None:
    def wrap(model: Any) -> Any:
        mesh = init_device_mesh("cpu", (1,))
        for block in blocks_of(model):
            fully_shard(block, mesh=mesh)
        return fully_shard(model, mesh=mesh)

    with alone():
        around(make, wrap)


@way("DataParallel", "")
def replicated(make: Make) -> None:
    def replica(module: Any) -> Any:  # as torch.nn.parallel.replicate makes it on GPUs
        made = module._replicate_for_data_parallel()
        for name, parameter in module._parameters.items():
            setattr(made, name, parameter)
        for name, child in module._modules.items():
            setattr(made, name, None if child is None else replica(child))
        return made

    where_possible(make, lambda model: run(replica(model)))


@way("checkpointing of blocks", "use_reentrant=False; the same gradients")
def checkpointed(make: Make) -> None:
    model = patched(make)
    same_gradients(model, lambda: checkpoint_blocks(model, use_reentrant=False))


@way("checkpointing of blocks, reentrant", "")
def reentrant(make: Make) -> None:
    def act(model: Any) -> None:
        same_gradients(model, lambda: checkpoint_blocks(model, use_reentrant=True))

    where_possible(make, act)


@way("checkpointing of the whole model, reentrant", "the same gradients")
def reentrant_whole(make: Make) -> None:
    model = patched(make)

    def run() -> Tensor:
        x = images().requires_grad_()
        output: Tensor = checkpoint(model, x, use_reentrant=True)
        return output

    due = gradients(lambda: model(images()), model)
    for mine, theirs in zip(gradients(run, model), due, strict=True):
        close(mine, theirs)


@way("CheckpointWrapper around blocks", "patched before or after; the same gradients")
def wrapped_blocks(make: Make) -> None:
    def wrap(model: Any) -> Any:
        for block in blocks_of(model):
            model.set_submodule(path_of(model, block), checkpoint_wrapper(block))
        return model

    around(make, wrap)
    model = patched(make)
    same_gradients(model, lambda: wrap(model))


@way("peft", "LoRA before or after patching; merged; unpatched", needs="peft")
def adapted(make: Make) -> None:
    import peft

    def adapt(model: Any) -> Any:
        torch.manual_seed(0)
        of_blocks = [path_of(model, block) for block in blocks_of(model)]
        # Layers that are called: torchvision reads the weights of a Swin's attention.
        found = [
            path
            for path, module in model.named_modules()
            if isinstance(module, nn.Linear) and path.startswith(tuple(of_blocks))
        ]
        config = peft.LoraConfig(
            r=2,
            target_modules=[
                path for path in found if make is not torchvision_swin or "mlp" in path
            ],
            init_lora_weights=False,
        )
        return peft.get_peft_model(model, config).eval()

    def called(model: Any) -> Tensor:
        return run(model.base_model.model)

    plain = called(adapt(make()))
    first, later = adapt(patched(make)), adapt(make())
    expedite.patch(later, PLAN)
    due = called(later)
    close(called(first), due)
    assert not torch.allclose(due, plain)
    close(run(first.merge_and_unload()), due)
    close(called(expedite.unpatch(later)), plain)


@way("accelerate, cpu_offload", "weights come from the CPU at each call", needs="accelerate")
def offloaded(make: Make) -> None:
    from accelerate import cpu_offload

    def offload(model: Any) -> Tensor:
        cpu_offload(model, execution_device=torch.device("cpu"))
        return run(model)

    where_possible(make, offload)
    model = make()
    plain = offload(model)
    close(run(expedite.patch(model, PLAN)), run(patched(make)))
    close(run(expedite.unpatch(model)), plain)


@way(
    "accelerate, hooks and prepare", "hooks on each block; unpatched under them", needs="accelerate"
)
def prepared(make: Make) -> None:
    from accelerate import Accelerator
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

    due, plain = run(patched(make)), run(make())
    model = Accelerator(cpu=True).prepare(patched(make))
    for block in blocks_of(model):
        add_hook_to_module(block, ModelHook())
    close(run(model), due)
    close(run(expedite.unpatch(model)), plain)
    for block in blocks_of(model):
        remove_hook_from_module(block)
    close(run(model), plain)


@way("torchao, int8 weights", "quantised before or after patching; unpatched", needs="torchao")
def quantised(make: Make) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    def quantise(model: Any) -> Any:
        quantize_(model, Int8WeightOnlyConfig(version=2))
        return model

    plain = run(quantise(make()))
    first, later = quantise(patched(make)), expedite.patch(quantise(make()), PLAN)
    close(run(first), run(later))
    close(run(expedite.unpatch(first)), plain)


@way("stochastic weight averaging, EMA", "a copy is patched as the model is")
def averaged(make: Make) -> None:
    from torch.optim.swa_utils import AveragedModel

    model = patched(make)
    average = AveragedModel(model)
    average.update_parameters(model)
    close(run(average), run(model))


@way("autocast", "bfloat16: finite, in its dtype")
def cast(make: Make) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert run(patched(make)).isfinite().all()


@way(".to(dtype)", "bfloat16 and float64, after patching")
def converted(make: Make) -> None:
    due = run(patched(make))
    model = patched(make).double()
    close(run(model, images().double()).float(), due)
    half = patched(make).bfloat16()
    assert run(half, images().bfloat16()).isfinite().all()


@way("inference_mode", "and gradients after it")
def inference(make: Make) -> None:
    model = patched(make)
    with torch.inference_mode():
        close(model(images()), run(patched(make)))
    model(images()).square().mean().backward()


@way("channels_last, strided images", "as contiguous ones")
def strided(make: Make) -> None:
    model = patched(make)
    due, x = run(model), images()
    close(run(model, x.mT.contiguous().mT), due)
    close(
        run(model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)),
        due,
    )


@way("copy.deepcopy, pickle, torch.save", "copies are patched and can be unpatched")
def copied(make: Make) -> None:
    model, plain = patched(make), run(make())
    run(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        close(run(other), run(model))
        close(run(expedite.unpatch(other)), plain)


@way("load_state_dict, assign=True", "into a patched model")
def assigned(make: Make) -> None:
    model, other = patched(make), make()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    model.load_state_dict(other.state_dict(), assign=True)
    close(run(model), run(expedite.patch(other, PLAN)))


@way("meta device, to_empty", "patched without weights, which come later")
def from_meta(make: Make) -> None:
    due, model = patched(make), expedite.patch(make().to("meta"), PLAN)
    model.to_empty(device="cpu")
    model.load_state_dict(due.state_dict())
    for one, other in zip(model.buffers(), due.buffers(), strict=True):
        one.copy_(other)
    close(run(model), run(due))


@way("torch.func.functional_call", "with parameters of another model")
def functional(make: Make) -> None:
    model, other = patched(make), make()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
        found = torch.func.functional_call(model, dict(other.named_parameters()), (images(),))
    close(found, run(expedite.patch(other, PLAN)))


@way("torch.vmap", "over images, as a batch of them")
def mapped(make: Make) -> None:
    model = patched(make)
    with torch.no_grad():
        found = torch.vmap(lambda image: model(image[None])[0])(images())
    close(found, run(model))


@way("torch.func.grad", "by images; as backward does")
def differentiated(make: Make) -> None:
    def act(model: Any) -> None:
        x = images().requires_grad_()
        (due,) = torch.autograd.grad(model(x).square().mean(), x)
        close(torch.func.grad(lambda image: model(image).square().mean())(images()), due)

    where_possible(make, act)


@way("threads", "each answers as alone; unpatched while another runs")
def threaded(make: Make) -> None:
    model = patched(make)
    due, plain, found = run(model), run(make()), []
    workers = [threading.Thread(target=lambda: found.append(run(model))) for _ in range(4)]
    for worker in workers:
        worker.start()
    expedite.unpatch(model)
    for worker in workers:
        worker.join()
    for one in found:
        close(one, due if torch.allclose(one, due, atol=1e-4) else plain)


@way("an interrupt, a cancelled task", "the next call is as ever")
def interrupted(make: Make) -> None:
    model = patched(make)
    due, block = run(model), blocks_of(model)[2]

    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    handle = block.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        run(model)
    handle.remove()
    close(run(model), due)


@way("hooks of others", "after and before each module; outputs of blocks have every token")
def hooked(make: Make) -> None:
    model, plain, shapes = patched(make), make(), []
    due = run(model)
    for one in (model, plain):
        seen: list[Any] = []
        shapes.append(seen)
        for block in blocks_of(one):
            block.register_forward_hook(lambda m, a, out, seen=seen: seen.append(tuple(out.shape)))
        run(one)
    assert shapes[0] == shapes[1]
    close(run(model), due)


@way("create_feature_extractor, made before patching", "says once that it runs unpatched")
def extracted(make: Make) -> None:
    from torchvision.models.feature_extraction import (  # type: ignore[import-untyped]
        create_feature_extractor,
    )

    if make is huggingface_beit:  # which torch.fx cannot trace
        raise NotPossible
    model = make()
    extractor = create_feature_extractor(model, ["norm"], suppress_diff_warning=True)
    expedite.patch(model, PLAN)
    with pytest.warns(UserWarning, match="were run and the block was not"), torch.no_grad():
        extractor(images())
    extractor(images())


@way("pipelines of transformers", "the pipeline itself is patched, and unpatched")
def piped(make: Make) -> None:
    from PIL import Image
    from transformers import ViTImageProcessor, pipeline

    if make is not huggingface_beit:
        raise NotPossible
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    pipe: Any = pipeline(
        "image-feature-extraction", make().model, image_processor=processor, device="cpu"
    )
    image = Image.effect_noise((32, 32), 80).convert("RGB")
    found = []
    for change in (expedite.unpatch, partial(expedite.patch, plan=PLAN), expedite.unpatch):
        change(pipe)
        found.append(torch.tensor(pipe(image)))
    assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])


def cell(way: Way, make: Make) -> tuple[str, str]:
    """What is found of a way on a host, and what was said where it was refused."""
    try:
        way.go(make)
    except NotPossible:
        return NOT_DEFINED, ""
    except ExpediteError as error:
        return REFUSED, str(error)
    return WORKS, ""


def line(way: Way) -> str:
    """The start of a way's line in docs/works_with.md; versions follow."""
    found = [cell(way, make) for make in HOSTS.values()]
    said = next((said for _, said in found if said), way.checked)
    return f"| {' | '.join((way.name, *(cell for cell, _ in found), said))} |"
