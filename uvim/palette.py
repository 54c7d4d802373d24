"""The colors of what is drawn: a hue for each class, a ramp for depths.

Every drawing takes its colors from here. So a class looks the same in a
prediction, a panel, the explorer and a contact sheet.

The first 12 colors were chosen so that all their shades stay far apart; each
further one is as far as possible from those before it (CIELAB).
"""

from collections.abc import Sequence

import numpy as np

VOID = (0, 0, 0)

# Of class 1, 2, …, as hexadecimal red, green and blue.
_CLASSES = """
694bff 00e14b ff0f1e 2dd2d2 ffb4f0 ffb41e ff1ee1 a5c378 ffa587 d2005a
b4d200 1e69b4 782d96 694b00 007800 3cffb4 961e0f 873c5a 00694b 00c3ff
2d78ff ff781e f05ab4 0000ff c300ff a5960f d269ff b4c3ff 3c5a0f b496ff
78ff00 ff87a5 96f078 ffd287 007887 ffe100 ff5a5a c3781e 694b87 96f0c3
00a569 783c2d 96875a 7800b4 ff96ff 78a51e e1a5b4 b40fa5 96005a 96d2e1
78a587 78d21e 3c3cc3 b43c4b d2e169 ff0096 f0d2b4 f0784b b45aa5 0fc35a
4b87b4 967896 00a5ff ffe15a 00f0d2 a55a2d c32d00 5a4b2d 5a5ac3 a57869
ff004b 4b4b69 00a500 69b45a 9678ff ff69f0 697800 3cb496 e1d2f0 c3e1c3
6996ff 4b874b f01eb4 00ff3c d27878 5a00e1 8787d2 d2965a c31ed2 b469d2
b4002d 4be1ff ff5a96 c378a5 ff4b00 ffb45a e1e1a5 960078 b44b00 c3b45a
5a693c 78e196 96a5c3 5aff87 d2b4ff 87d2c3 b44bff c34b78 ff00ff 699696
b4f05a ff5a78 87873c b4f096 ff960f 96781e 1e5a78 005aff 96d2ff b4f000
00a5c3 3c5a4b 874be1 782d78 00691e ff87c3 c3c32d d25ac3 d25a4b 5a872d
694b5a b4b496 a56978 3cd200 d20f78 c3a5d2 c387d2 96693c e1a596 e11e2d
ffc396 962db4 784bc3 d2a51e ffd2d2 5a5a00 0069d2 3ca5a5 ff964b 3c4b96
"""
# Of the instances of a class: a share of white that is added to its color, or
# below 0 of black. The first has the color itself.
_SHADES = (0.0, 0.22, -0.25, 0.4, -0.42)

# From near to far. The lightness (CIE L*) falls by about 12 at every step,
# from 94 to 20: nearer is always brighter, and no depth is the holes' black.
_DEPTHS = np.array([
    (255, 240, 170),
    (252, 196, 95),
    (240, 146, 72),
    (214, 98, 86),
    (168, 66, 114),
    (112, 48, 124),
    (58, 34, 104),
])


def _read_colors(text: str) -> np.ndarray:
  colors = [list(bytes.fromhex(digits)) for digits in text.split()]
  return np.array(colors, np.uint8)


_COLORS = _read_colors(_CLASSES)
# After so many classes the colors repeat.
NUM_COLORS = len(_COLORS)


def class_color(number: int) -> np.ndarray:
  """uint8 [3] of class 1, 2, …; `VOID` for 0 and below."""
  if number <= 0:
    return np.array(VOID, np.uint8)
  return _COLORS[(number - 1) % NUM_COLORS]


def segment_colors(classes: Sequence[int]) -> np.ndarray:
  """A color for each segment of an image.

  The first segment of a class has the color of the class. The next ones have
  lighter and darker shades of it; after five the shades repeat.

  Args:
    classes: of the segments, in the order of the segments.

  Returns:
    uint8 [number of segments, 3].
  """
  counts = {}
  colors = np.zeros((len(classes), 3), np.uint8)
  for place, number in enumerate(classes):
    rank = counts.get(number, 0)
    counts[number] = rank + 1
    colors[place] = _shade(class_color(number), rank)
  return colors


def _shade(color: np.ndarray, rank: int) -> np.ndarray:
  """The color of instance 0, 1, … of a class."""
  share = _SHADES[rank % len(_SHADES)]
  target = 255 if share > 0 else 0
  mixed = color + abs(share) * (target - color.astype(float))
  return np.rint(mixed).astype(np.uint8)


def depth_colors(depth: np.ndarray, nearest: float, farthest: float
                 ) -> np.ndarray:
  """Near is bright, far is dark, a pixel without a depth is black.

  Args:
    depth: of any shape; beyond the range the colors stay the same. A pixel
      has a depth if it is finite and above 0.
    nearest, farthest: the range, in the depth's unit.

  Returns:
    uint8 [*shape of depth, 3].
  """
  stops = np.linspace(nearest, farthest, len(_DEPTHS))
  is_known = (depth > 0) & (depth < np.inf)
  # Any number will do in a hole: it becomes black below.
  known = np.where(is_known, depth, nearest)
  channels = []
  for levels in _DEPTHS.T:
    channels.append(np.interp(known, stops, levels))
  colors = np.rint(np.stack(channels, axis=-1))
  return np.where(is_known[..., None], colors, 0).astype(np.uint8)
