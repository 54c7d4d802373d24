"""MAE: masked autoencoders, pre-trained on ImageNet-1k.

Files: timm/vit_{base,large}_patch16_224.mae, facebook/vit-mae-*. The decoder is
left out. Positions are fixed waves, so a file of no other family has nothing
where the class token would stand.

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners".
"""

from uvim.encoders.base import IMAGENET, Family
from uvim.nn.backbones.base import Style

MAE = Family(style=Style(gelu="erf", num_prefix=1), pixels=IMAGENET)
