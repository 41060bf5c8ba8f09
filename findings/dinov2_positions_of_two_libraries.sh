#!/bin/sh
# timm 1.0.31 and transformers 5.23.0 resize a DINOv2's positions differently.
#
# The same position table, learned at 518 px, is bicubic in both, but timm smooths it where it becomes
# smaller (antialias) and transformers does not. At 518 px both models are equal to the bit with the
# same weights; at other sizes features, and whatever a head makes of them, differ. A head is to be
# used with the library that its features were made with.
#
# Seen: positions of a smooth table differ by 0 at 518 px, 3 % at 448 px and 14 % at 224 px.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.15.0 torchvision==0.29.2 timm==1.0.31 transformers==5.23.0
"$folder/venv/bin/python" - <<'PYTHON'
import timm
import torch
from transformers import Dinov2Config, Dinov2Model

torch.manual_seed(0)
theirs = timm.create_model("vit_small_patch14_dinov2", depth=1, num_classes=0, dynamic_img_size=True).eval()
config = Dinov2Config(hidden_size=384, num_hidden_layers=1, num_attention_heads=6, image_size=518, patch_size=14)
model = Dinov2Model(config).eval()
grid = torch.nn.functional.interpolate(torch.randn(1, 384, 12, 12), size=(37, 37), mode="bicubic")
positions = torch.cat([torch.zeros(1, 1, 384), grid.flatten(2).mT], 1)  # smooth, as trained ones are
with torch.no_grad():
    theirs.pos_embed.copy_(positions)
    model.embeddings.position_embeddings.copy_(positions)
    apart = {}
    for size in (518, 448, 224):
        cells = size // 14
        one = theirs._pos_embed(torch.zeros(1, cells, cells, 384))[:, 1:]
        other = model.embeddings.interpolate_pos_encoding(torch.zeros(1, 1 + cells**2, 384), size, size)[:, 1:]
        apart[size] = float((one - other).norm() / other.norm())
print(apart)
assert apart[518] == 0
assert 0.02 < apart[448] < 0.05
assert 0.1 < apart[224] < 0.2
PYTHON
