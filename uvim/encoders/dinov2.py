"""DINOv2, without and with four registers.

Files: timm/vit_{small,base,large}_patch14[_reg4]_dinov2.lvd142m,
facebook/dinov2-{small,base,large}, facebook/dinov2-with-registers-*. The giant
has another MLP (SwiGLU) and is refused.

Sources: Oquab et al., "DINOv2: Learning Robust Visual Features without
Supervision"; Darcet et al., "Vision Transformers Need Registers".
"""

from uvim.encoders.base import IMAGENET, Family
from uvim.nn.backbones.base import Style

DINOV2 = Family(
    style=Style(gelu="erf", num_prefix=1), pixels=IMAGENET, layer_scale=True)
DINOV2_REG4 = Family(
    style=Style(gelu="erf", num_prefix=5), pixels=IMAGENET, layer_scale=True)
