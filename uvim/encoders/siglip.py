"""The image encoder of SigLIP and SigLIP 2 (of fixed resolution).

Files: google/siglip-*, timm/vit_*_siglip_*.webli, big_vision's `.npz`. There is
no class token. Text encoder and pooling head are left out.

Source: Zhai et al., "Sigmoid Loss for Language Image Pre-Training".
"""

from uvim.encoders.base import Family
from uvim.nn.backbones.base import Style

SIGLIP = Family(style=Style())
