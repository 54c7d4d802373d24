"""The image encoder of CLIP: OpenAI's, and OpenCLIP's with the exact GELU.

Files: openai/clip-vit-*, timm/vit_*_clip_*.openai; laion/CLIP-ViT-*,
timm/vit_*_clip_*.laion2b. Text encoder and projections are left out.

After the last block, CLIP norms its class token alone (`post_layernorm`). Here
that norm is the encoder's last layer and norms every token.

Source: Radford et al., "Learning Transferable Visual Models From Natural
Language Supervision".
"""

from uvim.encoders import base
from uvim.encoders.base import Family
from uvim.nn.backbones.base import Style

CLIP = Family(
    style=Style(
        gelu="quick", norm_epsilon=1e-5, pre_norm=True, num_prefix=1),
    pixels=base.CLIP)
OPEN_CLIP = Family(
    style=Style(gelu="erf", norm_epsilon=1e-5, pre_norm=True, num_prefix=1),
    pixels=base.CLIP)
