#!/bin/sh
# transformers 5.23.0: a Swin that has seen one small map shifts its windows no more.
#
# A block whose map is no larger than its window attends over the whole of it: it sets its own window
# and shift to fit, and never sets them back. Larger images then get other answers than before, and a
# model that was to be compared with itself is another one. SwinBackbone does not do so.
#
# Seen: window 4 and shift 2 become 4 and 0; answers of a larger image differ by 0.12 afterwards.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.15.0 transformers==5.23.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from transformers import SwinConfig, SwinModel

torch.manual_seed(0)
config = SwinConfig(image_size=64, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4)
model = SwinModel(config).eval()
block = model.encoder.layers[1].blocks[1]
image, small = torch.randn(1, 3, 64, 64), torch.randn(1, 3, 32, 32)
with torch.no_grad():
    before = model(image).last_hidden_state
    again = model(image).last_hidden_state
    seen = block.window_size, block.shift_size
    model(small)
    kept = block.window_size, block.shift_size
    after = model(image).last_hidden_state
print("window and shift", seen, "then", kept, "; answers apart", float((after - before).abs().max()))
assert torch.equal(before, again)
assert seen == (4, 2) and kept == (4, 0)
assert (after - before).abs().max() > 1e-3
PYTHON
