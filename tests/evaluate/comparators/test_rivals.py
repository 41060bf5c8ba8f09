"""What `expedite.patch` promises of any plan holds for the plans of rival methods too."""

import copy
import pickle
import threading
from typing import Any

import pytest
import torch
from torch import nn

import expedite
from expedite import ExpediteError, Span
from expedite.evaluate.comparators import METHODS, RIVALS, method_of, plan_of, plan_of_spans
from expedite.evaluate.comparators.rival import Rival
from expedite.measure.flops import count_flops
from expedite.plan import Plan, make_plan
from tests.hosts import (
    counted_reconstructions,
    enlarged_dpt,
    images,
    open_frames,
    segmenter,
    timm_beit,
    timm_eva,
    timm_swin,
    timm_vit,
)
from tests.patching.test_patching import fingerprint

pytestmark = pytest.mark.usefixtures("no_gradients")
MERGING = [name for name in RIVALS if name not in ("downsample", "tome-blocks")]


@pytest.fixture(params=list(RIVALS))
def plan(request: pytest.FixtureRequest) -> Plan:
    return plan_of(request.param, 1, 4)


def test_unpatch_restores_everything_bit_for_bit(plan: Plan) -> None:
    model = segmenter()
    before, output = fingerprint(model), model(images())
    keys = list(model.state_dict())
    patched = expedite.patch(model, plan)(images())
    assert patched.shape == output.shape
    assert not torch.allclose(patched, output)
    assert list(model.state_dict()) == keys
    expedite.unpatch(model)
    assert fingerprint(model) == before
    assert torch.equal(model(images()), output)


def test_nothing_merged_is_the_plain_model(plan: Plan) -> None:
    model = segmenter()
    before = model(images())
    whole = plan_of(method_of(plan), 1, 8)
    assert torch.equal(expedite.patch(model, whole)(images()), before)


def test_deepcopy_and_pickle(plan: Plan) -> None:
    model = segmenter()
    plain = model(images())
    output = expedite.patch(model, plan)(images())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(images()), output)
        assert torch.equal(expedite.unpatch(twin)(images()), plain)


def test_patched_returns_to_the_rival_that_was_there(plan: Plan) -> None:
    model = expedite.patch(segmenter(), plan)
    output = model(images())
    with expedite.patched(model, make_plan(1, 4)):
        assert not torch.allclose(model(images()), output)
    assert torch.equal(model(images()), output)


def test_images_of_a_batch_are_independent(plan: Plan) -> None:
    model = expedite.patch(segmenter(), plan)
    together = model(images(3))
    for index in range(3):
        alone = model(images(3)[index : index + 1])
        torch.testing.assert_close(together[index], alone[0], rtol=1e-4, atol=1e-4)


def test_threads_do_not_mix(plan: Plan) -> None:
    model = expedite.patch(segmenter(), plan)
    inputs = [images(1), 2 * images(1), images(1, 32, 48)]
    expected = [model(x) for x in inputs]
    found: dict[int, torch.Tensor] = {}

    def work(index: int) -> None:
        with torch.no_grad():
            found[index] = model(inputs[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[index], expected[index]) for index in range(3))
    assert open_frames(model) == 0


def test_a_call_that_fails_leaves_nothing(plan: Plan) -> None:
    model: Any = expedite.patch(segmenter(), plan)
    handle = model.encoder.blocks[2].mlp.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        model(images())
    handle.remove()
    assert open_frames(model) == 0
    assert torch.equal(model(images()), expedite.patch(segmenter(), plan)(images()))


def fail(module: nn.Module, args: object, output: object) -> None:
    raise RuntimeError("on purpose")


def test_bfloat16(plan: Plan) -> None:
    model = expedite.patch(segmenter(), plan).bfloat16()
    output = model(images().bfloat16())
    assert output.dtype == torch.bfloat16
    assert output.isfinite().all()


@pytest.mark.slow
def test_fullgraph(plan: Plan) -> None:
    model = expedite.patch(segmenter(), plan)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images()), model(images()), rtol=1e-4, atol=1e-4)


def test_operators_are_counted(plan: Plan) -> None:
    model = segmenter()
    base = count_flops(model, images(1))
    found = count_flops(expedite.patch(model, plan), images(1))
    assert found.unsupported == base.unsupported == {}
    assert 0 < found.operators < found.total < base.total


@pytest.mark.parametrize("name", MERGING)
def test_taps_inside_a_span_get_the_full_grid(name: str) -> None:
    model = expedite.patch(enlarged_dpt(), plan_of(name, 1, 4))
    with counted_reconstructions(model) as calls:
        assert model(images()).shape == (2, 128, 128)
    assert calls == [16, 16, 16]


@pytest.mark.parametrize("name", MERGING)
def test_the_head_can_run_on_merged_tokens(name: str) -> None:
    for delta in (False, True):
        plan = plan_of(name, 1, 4, reconstruct_at="head", delta=delta)
        output = expedite.patch(segmenter(), plan)(images())
        assert output.shape == (2, 5, 32, 32)
        assert not torch.allclose(
            output, expedite.patch(segmenter(), plan_of(name, 1, 4, delta=delta))(images())
        )


@pytest.mark.parametrize("name", MERGING)
def test_a_span_goes_on_from_the_one_before(name: str) -> None:
    spans = (Span(1, (6, 5), beta=1), Span(2, (3, 4)))
    model = expedite.patch(timm_vit(), plan_of_spans(name, spans))
    assert model(images()).isfinite().all()
    assert expedite.describe(model).kept == ((6, 5), (3, 4))


@pytest.mark.parametrize("name", ["pool", "pool+weights", "clusters+bilinear"])
def test_regular_cells_have_positions(name: str) -> None:
    for make in (timm_eva, timm_beit):
        assert expedite.patch(make(), plan_of(name, 1, 4))(images()).isfinite().all()


@pytest.mark.parametrize("name", MERGING)
def test_windows_are_refused(name: str) -> None:
    with pytest.raises(ExpediteError, match="blocks attend in windows; expedite and paper work"):
        expedite.patch(timm_swin(), plan_of(name, 1, 4))


@pytest.mark.parametrize("name", ["tome", "evit", "tome-blocks"])
def test_biases_between_cells_are_refused(name: str) -> None:
    with pytest.raises(ExpediteError, match="biases between regular cells"):
        expedite.patch(timm_beit(), plan_of(name, 1, 4))


def test_a_refused_plan_leaves_the_patch_that_was_there() -> None:
    model = expedite.patch(timm_beit(), make_plan(1, 4))
    with pytest.raises(ExpediteError):
        expedite.patch(model, plan_of("evit", 1, 4))
    assert expedite.describe(model).plan == make_plan(1, 4)


@pytest.mark.parametrize("name", METHODS)
def test_a_plan_knows_its_method(name: str) -> None:
    assert method_of(plan_of(name, 1, 4)) == name


def test_settings_that_differ_are_named() -> None:
    assert method_of(plan_of("tome", 1, 4, log_mass=False)) == "tome log_mass=False"
    assert method_of(plan_of("tome", 1, 4, delta=True)) == "tome+delta"
    assert (
        method_of(make_plan(1, 4, projection=9, iterations=2))
        == "expedite iterations=2 projection=9"
    )


@pytest.mark.parametrize(
    ("words", "settings", "sentence"),
    [
        ("magic", {}, "the method 'magic' was asked; expedite, paper, pool"),
        ("pool", {"k": 3}, "'k' was asked of 'pool', which has no use for it; it has use for: del"),
        ("downsample", {"delta": True}, "it has use for: none"),
        ("expedite", {"colour": 3}, "colour"),
    ],
)
def test_what_does_not_fit_is_refused(words: str, settings: dict[str, int], sentence: str) -> None:
    with pytest.raises(ExpediteError, match=sentence):
        plan_of(words, 1, 4, **settings)


def test_halves_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ExpediteError, match="'copy' and 'weights' can follow"):
        Rival((Span(1, 4),), merge="tome", returns="bilinear")
    with pytest.raises(ExpediteError, match="an image has one size"):
        plan_of_spans("downsample", (Span(0, 4, beta=1), Span(1, 3)))
