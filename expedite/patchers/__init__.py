"""Families of models in a folder for each library; importing this makes them known."""

from expedite.patchers.published import (
    depth_anything_3,
    dino,
    dpt,
    hiera,
    mask_units,
    open_clip,
    rf_detr,
    sam,
    segmenter,
    vggt,
    vit_adapter,
)
from expedite.patchers.published import sam3 as published_sam3
from expedite.patchers.published import swin as published_swin
from expedite.patchers.timm import cait, maps, shapes, stages
from expedite.patchers.timm import swin as timm_swin
from expedite.patchers.timm import vit as timm_vit
from expedite.patchers.torchvision import swin as torchvision_swin
from expedite.patchers.torchvision import vit as torchvision_vit
from expedite.patchers.transformers import packed, sam3, video, vitdet
from expedite.patchers.transformers import swin as transformers_swin
from expedite.patchers.transformers import towers as transformers_towers
from expedite.patchers.transformers import vit as transformers_vit
from expedite.patchers.transformers.refused import REASONS
from expedite.patching.families import register

register(
    families=(
        segmenter.find_host,
        dpt.find_host,
        vit_adapter.find_host,
        timm_vit.find_host,
        cait.find_host,
        stages.find_host,
        maps.find_host,
        shapes.find_host,
        torchvision_vit.find_host,
        transformers_vit.find_host,
        transformers_towers.find_host,
        sam.find_host,
        sam3.find_host,
        vitdet.find_host,
        packed.find_host,
        published_sam3.find_host,
        rf_detr.find_host,
        video.find_host,
        hiera.find_host,
        mask_units.find_host,
        timm_swin.find_host,
        torchvision_swin.find_host,
        transformers_swin.find_host,
        published_swin.find_host,
        dino.find_host,
        vggt.find_host,
        depth_anything_3.find_host,
        open_clip.find_host,
    ),
    names=(
        "Segmenter, DPT, ViT-Adapter and META (expedite.models)",
        "timm VisionTransformer (RelPos and NaFlex too), Eva, Beit, CaiT, PiT, CrossViT, VOLO, "
        "ConViT, LeViT, Visformer, NesT and the encoders of Qwen3, DeepSeek and Gemma 4",
        "torchvision VisionTransformer",
        "transformers ViT, DeiT, DINOv2, DINOv3, DPT and BEiT",
        "transformers' vision towers (CLIP, SigLIP, AIMv2, OWL-ViT, ViTPose, EoMT, RF-DETR, ...)",
        "Swin and SwinV2 (timm, torchvision, transformers, and as published)",
        "transformers ViTDet, Pixtral, Qwen2-VL's and Qwen3-VL's vision models, VideoMAE, ViViT",
        "open_clip VisionTransformer",
        "RF-DETR's backbone (transformers, and as published)",
        "DINOv2 and DINOv3 as published, in Depth Anything too",
        "VGGT and Depth Anything 3 (as published)",
        "Segment Anything's image encoder (segment_anything, timm, transformers, ultralytics)",
        "Hiera (timm, transformers)",
        "SAM 2's image encoder (timm, transformers, ultralytics, and as published) and SAM 3's "
        "(transformers, ultralytics, and as published)",
    ),
    reasons=REASONS,
)
