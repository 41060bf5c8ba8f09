#!/bin/sh
# transformers 5.23.0: the feature maps of a HieraBackbone do not lie where its image does.
#
# A HieraModel orders its tokens by mask units before its blocks, which attend within those, and back
# behind them. A HieraBackbone leaves them row by row before and puts them "back" behind, so blocks
# attend within pieces of rows, and a map's places are not those of the image. With the same weights
# the two differ, and a change at one pixel shows up in another part of the backbone's map: what is
# built on it (UperNet around Hiera, for one) learns or reads shuffled maps.
#
# Seen: 16×16 tokens, mask units of 4×4, one pixel changed at token (8, 8). HieraModel's first stage
# changes at rows and columns 8 to 11, its own unit; HieraBackbone's at rows 8 to 11, columns 0 to 7.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.15.0 transformers==5.23.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from transformers import HieraBackbone, HieraConfig, HieraModel

torch.manual_seed(0)
sizes = {"embed_dim": 32, "image_size": [64, 64], "depths": [1, 1, 2], "num_heads": [1, 2, 4]}
units = {"masked_unit_size": [4, 4], "masked_unit_attention": [True, True, False], "num_query_pool": 2}
config = HieraConfig(**sizes, **units, query_stride=[2, 2], out_features=["stage1"])
backbone = HieraBackbone(config).eval()
model = HieraModel(config, add_pooling_layer=False).eval()
model.load_state_dict(backbone.state_dict(), strict=False)
image = torch.randn(1, 3, 64, 64)
other = image.clone()
other[..., 33, 33] += 1  # within the patch of token (8, 8)


def moved(run):
    """The first and last row and column in which a map (1, H, W, C) changes."""
    with torch.no_grad():
        places = ((run(image) - run(other)).abs().amax(-1)[0] > 1e-5).nonzero()
    return places.amin(0).tolist(), places.amax(0).tolist()


ours = moved(lambda x: model(x, output_hidden_states=True).reshaped_hidden_states[1])
theirs = moved(lambda x: backbone(x).feature_maps[0].permute(0, 2, 3, 1))
print("HieraModel", ours, "HieraBackbone", theirs)
assert ours == ([8, 8], [11, 11])
assert theirs == ([8, 0], [11, 7])
PYTHON
