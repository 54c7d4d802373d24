"""Kinds of scenes: which things a scene should get, and how crowded it is.

The kind of a scene follows from its stream. `rooms` has plain scenes, and
`rooms/hard` has hard ones: more things, more categories, and everything in two
colors, so that a group of look-alikes touches another group of its color.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pp.rooms.colors import PALETTE
from pp.rooms.things import HARD_THING_LABELS, NUM_THING_LABELS

NO_GROUP = -1
# The streams from this one on have hard scenes.
FIRST_HARD_STREAM = 100

# How many things a plain scene should get: weights of 1, 2, … 8 things, summed
# up.
_COUNT_WEIGHTS = (0.06, 0.1, 0.16, 0.2, 0.18, 0.14, 0.1, 0.06)
_COUNT_SUMS = np.cumsum(_COUNT_WEIGHTS)
_COUNT_SUMS /= _COUNT_SUMS[-1]

# The same of a hard scene: from the least to the most, all alike.
_HARD_COUNTS = (3, 14)
_HARD_GROUPS = (2, 5)  # Members of a group.
_NUM_HARD_COLORS = 2


class Wish(NamedTuple):
  """A thing that the scene should get, if a spot is found."""
  group: int  # Number of the group, or NO_GROUP.
  label: int  # Position in the categories.
  color: np.ndarray


class Kind(NamedTuple):
  """What all scenes of a stream have in common.

  Shares are of an image box, or of the image.
  """
  image_side: int | None  # Pixels of square images; None: drawn.
  draw_wishes: Callable  # Generator → list of Wish.
  sizes: tuple  # Least and largest size of a thing, in metres.
  num_sizes: int  # Sizes tried before a thing is left out.
  image_shares: tuple  # Least and most of the image, covered by a thing's box.
  max_cover: float  # Of the smaller of two boxes, covered by the other.
  max_cover_in_group: float
  min_cover_in_group: float
  max_stretch: float  # Distance between mates; at 1 they touch.


def _plain_wishes(rng):
  """Draws 1–8 things: one or two groups of look-alikes, then singles."""
  colors = PALETTE[rng.permutation(len(PALETTE))]
  drawn = np.searchsorted(_COUNT_SUMS, rng.random(), side="right")
  count = int(drawn) + 1
  labels = rng.permutation(NUM_THING_LABELS)
  wishes = []
  if count > 1 and rng.random() < 0.9:
    group_size = int(rng.integers(2, min(count, 4) + 1))
    wishes += [Wish(0, int(labels[0]), colors[0])] * group_size
  if count - len(wishes) >= 2 and rng.random() < 0.5:
    # Sometimes the color of the first group, in another category: color says
    # nothing about the category either.
    wishes += [Wish(1, int(labels[1]), colors[rng.integers(2)])] * 2
  while len(wishes) < count:
    label = int(rng.integers(NUM_THING_LABELS))
    color = colors[rng.integers(3)]
    wishes.append(Wish(NO_GROUP, label, color))
  return wishes


def _hard_wishes(rng):
  """Draws 3–14 things: groups of look-alikes, all in two colors."""
  chosen = rng.choice(len(PALETTE), _NUM_HARD_COLORS, replace=False)
  colors = PALETTE[chosen]
  least, most = _HARD_COUNTS
  count = int(rng.integers(least, most + 1))
  smallest, largest = _HARD_GROUPS
  wishes = []
  group = 0
  while len(wishes) < count:
    drawn = int(rng.integers(smallest, largest + 1))
    group_size = min(drawn, count - len(wishes))
    label = int(rng.choice(HARD_THING_LABELS))
    color = colors[rng.integers(_NUM_HARD_COLORS)]
    wishes += [Wish(group, label, color)] * group_size
    group += 1
  return wishes


PLAIN = Kind(
    image_side=None,
    draw_wishes=_plain_wishes,
    sizes=(0.65, 1.45),
    num_sizes=3,
    image_shares=(0.045, 0.3),
    max_cover=0.45,
    max_cover_in_group=0.72,
    min_cover_in_group=0.12,
    max_stretch=1.5,
)
HARD = Kind(
    image_side=64,
    draw_wishes=_hard_wishes,
    sizes=(0.5, 1.1),
    num_sizes=12,
    image_shares=(0.018, 0.16),
    max_cover=0.5,
    max_cover_in_group=0.72,
    min_cover_in_group=0.12,
    max_stretch=1.15,
)


def kind_of(seed):
  """The Kind of the scenes of a stream."""
  return HARD if seed >= FIRST_HARD_STREAM else PLAIN
