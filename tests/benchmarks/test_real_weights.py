"""The wheel's ONNX file in small: its tensors come out as transformers and timm have them."""

import subprocess
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model

from benchmarks.real_weights import Decoder, fetch, for_timm, read_tensors
from expedite.errors import ExpediteError
from expedite.models.files import load_weights, read_state_dict

pytestmark = pytest.mark.usefixtures("no_gradients")

SIDE, GRID, WIDTH, DEPTH, HEADS = 56, 16, 32, 2, 2


def original() -> Any:
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        image_size=SIDE,
        patch_size=14,
    )
    model: Any = Dinov2Model(config)
    model.eval()
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def published(model: Any, folder: Path) -> dict[str, Tensor]:
    """Tensors under the names that files have; transformers calls them otherwise in memory."""
    model.save_pretrained(folder)
    return dict(read_state_dict(folder / "model.safetensors"))


def exported(model: Any, decoder: Decoder, path: Path) -> Path:
    """A file with its tensors where an exporter has them; its graph computes nothing."""
    tensors: dict[str, Tensor] = {}
    nodes: list[Any] = []
    for name, tensor in published(model, path.parent).items():
        if name == "embeddings.position_embeddings":
            tensors["onnx::Concat_7"] = tensor[:, :1]
            tensors["onnx::Reshape_8"] = tensor[:, 1:]
        elif name.startswith("encoder") and tensor.ndim == 2:  # of a linear layer
            tensors[f"onnx::MatMul_{len(nodes)}"] = tensor.T.contiguous()
            place = name.removesuffix(".weight").split(".")
            inner = "/".join([".".join(place[1:3]), *place[3:]])
            output = f"/backbone/encoder/{inner}/MatMul_output_0"
            inputs = ["x", f"onnx::MatMul_{len(nodes)}"]
            nodes.append(helper.make_node("MatMul", inputs, [output]))
        elif name != "embeddings.mask_token":
            tensors[f"backbone.{name}"] = tensor
    # Attention has products of two activations, which are no layers.
    attention = "/backbone/encoder/layer.0/attention/attention"
    nodes.append(helper.make_node("MatMul", ["x", "x"], [f"{attention}/MatMul_output_0"]))
    tensors |= {f"decoder.{name}": tensor for name, tensor in decoder.state_dict().items()}
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [],
        [numpy_helper.from_array(tensor.numpy(), name) for name, tensor in tensors.items()],
    )
    onnx.save(helper.make_model(graph), path)
    return path


def test_tensors_come_out_for_both_libraries(tmp_path: Path) -> None:
    model, decoder = original(), Decoder((WIDTH, 16, 8, 4))
    path = exported(model, decoder, tmp_path / "small.onnx")
    backbone, of_decoder = read_tensors(path)
    (tmp_path / "model.safetensors").unlink()
    save_file(backbone, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again: Any = Dinov2Model.from_pretrained(tmp_path)
    again.eval()
    Decoder((WIDTH, 16, 8, 4)).load_state_dict({**decoder.state_dict(), **of_decoder})

    timm = VisionTransformer(
        SIDE, 14, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, num_classes=0, init_values=1.0
    ).eval()
    load_weights(timm, for_timm(backbone), path)
    images = torch.randn(2, 3, SIDE, SIDE)
    expected = model(images).last_hidden_state
    assert expected.shape == (2, 1 + GRID, WIDTH)
    assert torch.equal(again(images).last_hidden_state, expected)
    torch.testing.assert_close(timm.forward_features(images), expected)


def test_an_attentions_products_are_no_layers(tmp_path: Path) -> None:
    path = exported(original(), Decoder((WIDTH, 4)), tmp_path / "small.onnx")
    assert set(read_tensors(path)[0]) == set(published(original(), tmp_path))


def test_a_file_without_positions_is_refused(tmp_path: Path) -> None:
    path = exported(original(), Decoder((WIDTH, 4)), tmp_path / "small.onnx")
    model = onnx.load(path)
    kept = [one for one in model.graph.initializer if "Reshape" not in one.name]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.save(model, path)
    with pytest.raises(ExpediteError, match="1 and 0 were found"):
        read_tensors(path)


def test_the_decoder_enlarges_eightfold() -> None:
    salient = Decoder((WIDTH, 16, 8, 4)).eval().at_size([torch.randn(2, WIDTH, 3, 5)], (42, 70))
    assert salient.shape == (2, 1, 42, 70)
    assert 0 < salient.min() < salient.max() < 1
    assert Decoder((WIDTH, 16, 8, 4)).eval()(torch.randn(1, WIDTH, 3, 5)).shape == (1, 1, 24, 40)


def test_a_wheel_that_is_there_is_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def run(words: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        asked.append(words)
        return subprocess.CompletedProcess(words, 1)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ExpediteError, match="some-thing"):
        fetch("some-thing==1.0", tmp_path)
    wheel = tmp_path / "some_thing-1.0-py3-none-any.whl"
    wheel.touch()
    assert fetch("some-thing==1.0", tmp_path) == wheel
    assert len(asked) == 1
