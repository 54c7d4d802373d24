"""DINO: self-distillation on ImageNet-1k. DeiT's ViTs are of the same form.

Files: timm/vit_{small,base}_patch{16,8}_224.dino, facebook/dino-vit*.

Source: Caron et al., "Emerging Properties in Self-Supervised Vision
Transformers".
"""

from uvim.encoders.base import IMAGENET, Family
from uvim.nn.backbones.base import Style

DINO = Family(style=Style(gelu="erf", num_prefix=1), pixels=IMAGENET)
