"""Colors of a room, and the change between bytes and linear light.

All arithmetic on light is done in linear RGB, float32 with 1 = white.
"""

import numpy as np

_GAMMA = 2.2


def to_linear(srgb):
  """Changes 8-bit sRGB values, of any shape, to linear float32."""
  return (np.asarray(srgb, np.float32) / 255) ** np.float32(_GAMMA)


# A power for each pixel would cost more than a look-up in a table.
_BYTES = np.round(255 * np.linspace(0, 1, 4096) ** (1 / _GAMMA))
_BYTES = _BYTES.astype(np.uint8)


def to_bytes(linear):
  """Changes linear light in 0..1, of any shape, to 8-bit sRGB."""
  steps = (linear * 4095).astype(np.intp)
  return _BYTES.take(steps)


# What things and rugs are painted with.
PALETTE = to_linear([
    (214, 64, 56),
    (232, 126, 52),
    (240, 190, 66),
    (128, 178, 72),
    (52, 146, 108),
    (64, 170, 178),
    (58, 122, 196),
    (92, 88, 180),
    (160, 92, 176),
    (222, 112, 148),
    (240, 232, 214),
    (112, 78, 60),
    (84, 92, 104),
])
FLOORS = to_linear([
    (176, 134, 92),
    (138, 98, 66),
    (198, 172, 138),
    (160, 160, 158),
    (112, 122, 132),
    (176, 150, 142),
])
WALLS = to_linear([
    (226, 218, 200),
    (196, 212, 214),
    (214, 196, 182),
    (182, 196, 172),
    (206, 198, 216),
    (232, 222, 180),
    (164, 182, 198),
    (222, 190, 176),
])
# Just above the horizon, and high up.
SKY = to_linear([(206, 226, 238), (120, 172, 224)])
