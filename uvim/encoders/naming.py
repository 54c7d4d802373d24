"""How programs call the arrays of a ViT.

A heads
"""

import abc
from collections.abc import Iterable
from typing import ClassVar

from uvim.encoders.base import Arrays, Found


class Naming(abc.ABC):
  """Recognises files of one program and gives their arrays our names.

  Names of a file all begin with 'params/' here; see `uvim.files`.

  Attributes:
    is_bare: whether such a file holds nothing but an encoder and its heads, so
      that no whole model can start from it.
  """

  is_bare: ClassVar[bool] = True

  @abc.abstractmethod
  def is_mine(self, names: Iterable[str]) -> bool:
    """Whether a file with arrays of these names is of this program."""

  @abc.abstractmethod
  def read(self, arrays: Arrays, num_heads: int) -> Found:
    """The ViT of a file.

    Args:
      arrays: name → array, as in the file.
      num_heads: A.

    Raises:
      ConfigError: an array that this code does not know; shapes that
        contradict each other.
    """
