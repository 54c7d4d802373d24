"""ViTs of "How to train your ViT?" (AugReg), pre-trained on ImageNet-21k.

Files: the published `.npz`, timm/vit_*_patch*_224.augreg_in21k,
google/vit-*-in21k. As in the released UViM, whose stage II starts from
ViT-L/16, the class token is left out. They were trained with the tanh form of
GELU, although some programs now run them with the exact one.

Source: Steiner et al., "How to train your ViT?".
"""

from uvim.encoders.base import Family
from uvim.nn.backbones.base import Style

AUGREG = Family(style=Style(), drops_class_token=True)
