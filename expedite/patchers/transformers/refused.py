"""Models of transformers, and their copies elsewhere, that are refused for reasons of their own."""

# SegFormer's at 512², a quarter of the tokens from a quarter of its longest stage on, keys of all
# tokens: 25.3 of 112.0 GFLOPs of a B5, 3.4 of 62.7 of a B2, 0.3 of 8.5 of a B0.
_POOLED = (
    "whose keys and values are pooled by convolutions over all tokens of the map, so that a "
    "quarter as many clusters, as queries and in MLPs alone, would save 4 % of a SegFormer-B0's "
    "GFLOPs at 512², 5 % of a B2's and 23 % of a B5's, which is not built"
)
# By the name of a class, in the words that follow "a model was found, ".
REASONS = {
    "GLPNModel": _POOLED,
    "GroupViTVisionModel": (
        "which merges tokens into groups itself, so that its blocks run on no grid"
    ),
    "MixVisionTransformer": _POOLED,
    "PvtModel": _POOLED,
    "PvtV2Model": _POOLED,
    "Qwen2_5_VisionTransformerPretrainedModel": (
        "whose blocks attend in windows of a packed sequence, which borders of the image cut short "
        "without padding; Qwen2-VL's and Qwen3-VL's vision models, without windows, can be patched"
    ),
    "SegGptModel": (
        "which joins a prompt and an image one above the other and averages them between blocks"
    ),
    "SegformerModel": _POOLED,
    "TimesformerModel": "whose blocks attend along time, each place by itself, besides in frames",
    "VJEPA2Model": (
        "whose attention turns tokens by whole rows, columns and frames, and clusters stand between"
    ),
    "VideoPrismVisionModel": (
        "whose blocks attend within frames first and then along time, each place by itself"
    ),
}
