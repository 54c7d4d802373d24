"""Depth maps in OpenEXR files, as renderers and scanners write them.

H W pixels of an image
"""

import pathlib
from typing import Any

import numpy as np

from uvim.opener import MAX_PIXELS
from uvim.registry import ConfigError

# OpenEXR's own name for the channel of depth.
_DEPTH_CHANNEL = "Z"


def import_openexr() -> Any:
  """Imports the package that reads .exr files.

  Raises:
    ConfigError: it is not installed.
  """
  try:
    import OpenEXR
  except ImportError as error:
    raise ConfigError("Reading .exr files needs a package that is not "
                      "installed: pip install OpenEXR.") from error
  return OpenEXR


def read_depth(path: pathlib.Path) -> np.ndarray:
  """The channel of depth as it is stored: float16 or float32 [H, W].

  Raises:
    ConfigError: OpenEXR is not installed.
    ValueError: there are several channels, and none is called Z.
  """
  openexr = import_openexr()
  # Before the pixels: a small file may claim to hold many.
  with openexr.File(str(path), header_only=True) as file:
    first, last = file.header()["dataWindow"]
  width, height = (int(size) for size in last - first + 1)
  if width * height > MAX_PIXELS:
    raise ValueError(f"it has {width * height:,} pixels; allowed: 1 to "
                     f"{MAX_PIXELS:,}")
  with openexr.File(str(path), separate_channels=True) as file:
    channels = file.channels()
    # Files of one channel call it as they like.
    name = _DEPTH_CHANNEL
    if len(channels) == 1:
      [name] = channels
    if name not in channels:
      raise ValueError(f"it has the channels {', '.join(channels)}; allowed: "
                       f"one, or one called {_DEPTH_CHANNEL}")
    return channels[name].pixels
