"""The networks that read images, by the names that configs use.

A new backbone is one file with one class and one line in `BACKBONES`.
"""

from uvim.nn.backbones import vit
from uvim.nn.backbones.base import Backbone

BACKBONES: dict[str, type[Backbone]] = {"vit": vit.ViT}
