"""The networks that read images, by the names that configs use.

A new backbone is one file with one class and one line in `BACKBONES`.
"""

from uvim.nn.backbones import conv_stem, mixer, vit
from uvim.nn.backbones.base import Backbone

BACKBONES: dict[str, type[Backbone]] = {
    "vit": vit.ViT,
    "conv_stem": conv_stem.ConvStem,
    "mixer": mixer.Mixer,
}
