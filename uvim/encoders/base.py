"""What a family of pretrained image encoders is.

H W rows and columns of a grid of image tokens
"""

import abc
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

Arrays = Mapping[str, np.ndarray]
# Rows and columns of a grid of image tokens.
Grid = tuple[int, int]
# Three numbers for the three color channels.
Channels = tuple[float, ...]

# All names of parameters begin with this; see `uvim.files`.
PREFIX = "params/"
# The names of ours that an encoder may give; see `Encoder.to_ours`.
POSITIONS = f"{PREFIX}pos_embedding_encoder"
PARTS = (f"{PREFIX}encoder/", f"{PREFIX}EmbedPatches/", POSITIONS)


class Encoder(abc.ABC):
  """Recognises the checkpoints of one family and gives them our names.

  Attributes:
    block: options of our transformer block that the family needs, such as
      another GELU; {} where our defaults are right.
    pixels: (mean, standard deviation) per channel of the images that it was
      trained on, in [0, 1]; None: images in [-1, 1], as ours.
  """

  block: ClassVar[Mapping[str, Any]] = {}
  pixels: ClassVar[tuple[Channels, Channels] | None] = None

  @abc.abstractmethod
  def is_mine(self, names: Iterable[str]) -> bool:
    """Whether a file with arrays of these names holds such an encoder."""

  @abc.abstractmethod
  def to_ours(
      self,
      arrays: Arrays,
      grid: Grid | None,
  ) -> tuple[dict[str, np.ndarray], list[str]]:
    """Arrays under the names of stage II's image encoder.

    Args:
      arrays: name → array, as in the file.
      grid: rows and columns of our image tokens, for which the position
        embedding is resampled; None: we learn none, so it is left out.

    Returns:
      (arrays by name, below PARTS; names of the file that were left out). A
      name that the family does not know is kept as it is: the caller then
      refuses the file.

    Raises:
      ConfigError: arrays that contradict each other; positions on no square
        grid.
    """
