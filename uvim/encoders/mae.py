"""MAE: masked autoencoders, pre-trained on ImageNet-1k.

Files: timm/vit_{base,large}_patch16_224.mae, timm/vit_huge_patch14_224.mae,
facebook/vit-mae-*. The decoder is left out. The positions are fixed waves, and
that of the class token is zero. No other family has a zero there, so this tells
its files.

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners".
"""

from uvim.encoders.base import IMAGENET, Family
from uvim.nn.backbones.base import Style

MAE = Family(style=Style(gelu="erf", num_prefix=1), pixels=IMAGENET)
