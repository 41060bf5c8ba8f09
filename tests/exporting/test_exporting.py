"""A file that was exported is the model, or there is no file."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import expedite
from expedite import ExpediteError
from expedite.evaluate.comparators import plan_of
from expedite.exporting.exporting import export
from expedite.exporting.formats import FORMATS, Format, Run
from expedite.exporting.outputs import named
from tests.host_table import transformers_model
from tests.hosts import huggingface_swin, images, segmenter, timm_vit

pytestmark = pytest.mark.usefixtures("no_gradients")

# Two steps, of which the last may be hard, say as much of the graph as five and export faster.
UNEVEN: dict[str, Any] = {"alpha": 1, "clusters": (3, 5), "iterations": 2}
FORMAT_NAMES = ["onnx", "torch-export"]


def opened(path: Path) -> Run:
    """A file as other programs run it, by no code of ours."""
    if path.suffix == ".pt2":
        program = torch.export.load(path).module()
        return lambda images: [tensor for _, tensor in named(program(images))]
    session = onnxruntime.InferenceSession(path)
    (name,) = (one.name for one in session.get_inputs())
    return lambda images: [torch.from_numpy(x) for x in session.run(None, {name: images.numpy()})]


def check(model: nn.Module, path: Path) -> None:
    """Compare at several batches; 1e-3 of the largest value is what rounding can do."""
    run = opened(path)
    for batch in (1, 2, 3):
        due = [tensor for _, tensor in named(model(images(batch)))]
        for a, b in zip(run(images(batch)), due, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-3 * float(b.abs().max()))


# Rewriting the graph takes three quarters of an export: once for a plan, with all operators in it.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "plan", "rewritten"),
    [
        (lambda: segmenter(n_layers=2), plan_of("expedite", **UNEVEN), True),
        (lambda: timm_vit(depth=2), plan_of("paper", k=4, **UNEVEN), False),
        (lambda: timm_vit(depth=2), plan_of("pool", 1, (3, 5)), False),
        (transformers_model("ViT"), None, True),
    ],
    ids=["expedite", "paper", "pooling", "unpatched"],
)
def test_onnx_runtime_runs_what_pytorch_does(
    make: Callable[[], nn.Module],
    plan: Any,
    rewritten: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make() if plan is None else expedite.patch(make(), plan)
    if not rewritten:
        monkeypatch.setattr("torch.onnx.ONNXProgram.optimize", lambda program: None)
    found = export(model, images(1), tmp_path / "model.onnx")
    assert found.opset is not None
    assert found.data is None
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert max(difference.relative for difference in found.differences) < found.tolerance
    check(model, tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("make", "plan"),
    [
        (lambda: segmenter(n_layers=2), plan_of("expedite", **UNEVEN)),
        (lambda: huggingface_swin(depths=[2, 1]), plan_of("expedite", 1, 5, iterations=2)),
        (transformers_model("DPT depth"), plan_of("paper", 3, (3, 5), k=4, iterations=2)),
    ],
    ids=["segmenter", "windows", "taps"],
)
def test_torch_export_loads_what_pytorch_does(
    make: Callable[[], nn.Module], plan: Any, tmp_path: Path
) -> None:
    model = expedite.patch(make(), plan)
    export(model, images(1), tmp_path / "model.pt2", "torch-export")
    check(model, tmp_path / "model.pt2")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["openvino", "aoti"])
def test_compiled_files_give_what_pytorch_does(name: Any, tmp_path: Path) -> None:
    if name == "openvino":
        pytest.importorskip("openvino")
    model = expedite.patch(segmenter(n_layers=2), plan_of("expedite", **UNEVEN))
    found = export(model, images(1), tmp_path / f"model{FORMATS[name].suffix}", name)
    assert (found.usual is None) == (name == "aoti")
    assert max(difference.relative for difference in found.differences) < found.tolerance


def test_a_calibration_travels_in_the_file(tmp_path: Path) -> None:
    calibration, model = tmp_path / "made.safetensors", timm_vit(depth=2)
    expedite.calibrate(model, images(4), alpha=1, directions=16).save(calibration)
    expedite.patch(model, **UNEVEN, calibration=str(calibration))
    export(model, images(1), tmp_path / "model.pt2", "torch-export")
    calibration.unlink()
    check(model, tmp_path / "model.pt2")


class Outputs(nn.Module):
    """Puts out whatever is asked of it."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.score: nn.Module = nn.Conv2d(3, 2, 3)
        self.change = change

    def forward(self, images: Tensor) -> Any:
        return self.change(self.score(images))


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_outputs_keep_their_names(name: Any, tmp_path: Path) -> None:
    model = Outputs(lambda x: {"maps": (x, [x + 1]), "none": None, "mean": x.mean()}).eval()
    found = export(model, images(1), tmp_path / f"model{FORMATS[name].suffix}", name)
    assert found.outputs == ("maps.0", "maps.1.0", "mean")
    check(model, found.path)


@pytest.mark.slow
def test_weights_beyond_what_protobuf_takes_get_a_file_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD", 0)
    model = timm_vit(depth=1)
    found = export(model, images(1), tmp_path / "model.onnx")
    assert found.data == tmp_path / "model.onnx.data"
    assert found.data.stat().st_size > 1000
    check(model, found.path)


def fake(*errors: float) -> Format:
    """A format whose file is so far from the model, draw by draw; the last goes on for ever."""
    left = list(errors)

    def run(images: Tensor) -> list[Tensor]:
        return [images + (left.pop(0) if len(left) > 1 else left[0])]

    def write(program: Any, outputs: Any, path: Path) -> None:
        path.write_text("new")

    return Format(".fake", "export", (), write, lambda path: run)


class Same(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images + 0


def test_a_file_that_is_not_the_model_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model.fake"
    out.write_text("old")
    for error in (0.1, torch.nan, torch.inf):
        monkeypatch.setitem(FORMATS, "fake", fake(error))
        with pytest.raises(ExpediteError, match=r"not the model.*batch 1.*100.00%"):
            export(Same().eval(), images(1), out, "fake")  # type: ignore[arg-type]
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [
            ("model.fake", "old")
        ]


def test_ties_are_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "fake", fake(0.1, 0.0))
    out = tmp_path / "model.fake"
    found = export(Same().eval(), images(1), out, "fake")  # type: ignore[arg-type]
    draws = [(one.batch, one.agreeing, one.share) for one in found.differences]
    assert draws == [(1, 0, 1.0), (1, 1, 0.0), (3, 3, 0.0)]
    assert out.read_text() == "new"


@pytest.mark.parametrize("wrong", [1, 2])
def test_most_images_must_agree(
    wrong: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(images: Tensor) -> list[Tensor]:
        return [images, torch.cat([images[:-wrong], images[-wrong:] + (len(images) > 1)])]

    form = Format(".fake", "export", (), fake(0.0).write, lambda path: run)
    monkeypatch.setitem(FORMATS, "fake", form)
    twice, out = Outputs(lambda x: (x, x)).eval(), tmp_path / "model.fake"
    twice.score = nn.Identity()
    if wrong == 1:
        found = export(twice, images(1), out, "fake")  # type: ignore[arg-type]
        assert [(one.batch, one.agreeing) for one in found.differences] == [(1, 1), (3, 2)]
        assert found.differences[1].share == pytest.approx(1 / 3)
    else:
        with pytest.raises(ExpediteError, match="batch 3: 1 of 3 images agree"):
            export(twice, images(1), out, "fake")  # type: ignore[arg-type]


def test_a_file_for_one_batch_alone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = Format(".fake", "export", (), fake(0.0).write, lambda path: lambda images: [images[:1]])
    monkeypatch.setitem(FORMATS, "fake", form)
    with pytest.raises(ExpediteError, match="batch 3: 0 of 3"):
        export(Same().eval(), images(1), tmp_path / "model.fake", "fake")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: (x, "words"), "a str was found in the model's output at '1'"),
        (lambda x: [], "without any tensor"),
        (lambda x: x if x.sum() > 0 else -x, "cannot be exported as torch-export: "),
        (lambda x: x.reshape(2, -1), "cannot be exported|does not run|not the model"),
    ],
)
def test_models_that_cannot_be_exported(
    change: Callable[[Tensor], Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ExpediteError, match=message) as raised:
        export(Outputs(change).eval(), images(2), tmp_path / "model.pt2", "torch-export")
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def no_room() -> Iterator[None]:
    """No file grows beyond 4 KB, which writing finds as it finds a full disk."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.usefixtures("no_room")
def test_a_full_disk_ends_in_one_sentence(tmp_path: Path) -> None:
    out = tmp_path / "model.pt2"
    out.write_text("what was there")
    with pytest.raises(ExpediteError, match=r"model\.pt2 cannot be written: OSError"):
        export(Same().eval(), images(1), out, "torch-export")
    assert out.read_text() == "what was there"
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]


def test_what_is_asked_is_checked_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = Same().eval(), tmp_path / "model.onnx"
    with pytest.raises(ExpediteError, match="training mode"):
        export(Same(), images(1), out)
    with pytest.raises(ExpediteError, match=r"end in \.pt2"):
        export(model, images(1), out, "torch-export")
    with pytest.raises(ExpediteError, match="the format 'tflite' was asked"):
        export(model, images(1), out, "tflite")  # type: ignore[arg-type]
    for wrong in (images(1)[0], images(1).long()):
        with pytest.raises(ExpediteError, match=r"floating-point ones \(B, 3, H, W\)"):
            export(model, wrong, out)
    with pytest.raises(ExpediteError, match="cannot be written: FileNotFoundError"):
        export(model, images(1), tmp_path / "nowhere" / "model.onnx")
    out.mkdir()
    with pytest.raises(ExpediteError, match="it is a folder"):
        export(model, images(1), out)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExpediteError, match=r"needs onnx, .* pip install 'expedite-vit\[export\]'"):
        export(model, images(1), out)


def test_sizes_left_open_are_refused_while_tracing() -> None:
    """The grid is told apart by sizes while tracing, and files keep no guards of it."""
    model = expedite.patch(timm_vit(depth=2, dynamic_img_size=True), alpha=1, keep=0.3)
    for size in (2, 3):
        shapes = ({0: torch.export.Dim.AUTO, size: torch.export.Dim.AUTO},)
        with pytest.raises(ExpediteError, match="images of any size was asked of a patched timm"):
            torch.export.export(model, (images(2),), dynamic_shapes=shapes, strict=False)
