"""Pretrained image encoders by family.

A new family is one file with one `Family` and one line in `ENCODERS`.
"""

from uvim.encoders import augreg, clip, dino, dinov2, mae, siglip
from uvim.encoders.base import Family

ENCODERS: dict[str, Family] = {
    "augreg": augreg.AUGREG,
    "mae": mae.MAE,
    "dino": dino.DINO,
    "dinov2": dinov2.DINOV2,
    "dinov2_reg4": dinov2.DINOV2_REG4,
    "clip": clip.CLIP,
    "open_clip": clip.OPEN_CLIP,
    "siglip": siglip.SIGLIP,
}
