import pytest
import torch
from torch import nn

from expedite import ExpediteError
from expedite.measure.mode import Job, Mode, jobs_of, modes_of
from expedite.plan import make_plan

PLANS = [make_plan(1, 4), make_plan(2, 4)]


def test_every_plan_in_every_mode() -> None:
    modes = modes_of(["float32", "bfloat16"], ["none"])
    assert [mode.torch_dtype for mode in modes] == [torch.float32, torch.bfloat16]
    assert jobs_of(iter(PLANS), modes) == [Job(plan, mode) for mode in modes for plan in PLANS]
    assert jobs_of(PLANS) == [Job(plan, Mode("float32", "none")) for plan in PLANS]


@pytest.mark.parametrize(
    ("dtype", "compiled", "sentence"),
    [
        ("int8", "none", "the dtype 'int8' was asked; float32, bfloat16, float16 are known"),
        ("float32", "fast", "compiling in mode 'fast' was asked; none, default, reduce-overhead"),
    ],
)
def test_modes_that_there_are_not(dtype: str, compiled: str, sentence: str) -> None:
    with pytest.raises(ExpediteError, match=sentence):
        Mode(dtype, compiled)


def test_a_model_that_is_not_to_be_compiled_is_called_itself() -> None:
    model = nn.Linear(2, 2)
    assert Mode().compiled(model) is model


def test_a_model_is_compiled_for_each_size(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda model, **options: asked.append(options))
    Mode(compile="reduce-overhead").compiled(nn.Linear(2, 2))
    assert asked == [{"mode": "reduce-overhead", "dynamic": False}]


def test_a_model_that_cannot_be_compiled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_ = torch.compile

    def broken(model: nn.Module, mode: str, dynamic: bool) -> object:
        def backend(graph: object, inputs: object) -> object:
            raise RuntimeError(f"no compiler for {mode}")

        return compile_(model, backend=backend)

    monkeypatch.setattr(torch, "compile", broken)
    call = Mode(compile="default").compiled(nn.Linear(2, 2))
    with pytest.raises(ExpediteError, match=r"'default' was asked and failed; .* no compiler"):
        call(torch.zeros(1, 2))
