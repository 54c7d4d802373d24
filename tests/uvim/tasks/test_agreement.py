"""The agreement of maps equals a count of segments, one by one."""

import jax
import numpy as np

from uvim.tasks import agreement


def masks_of(map_HWC):
  """(class, mask) of each segment; class 0 is void."""
  pairs = {tuple(pair) for pair in map_HWC.reshape(-1, 2).tolist()}
  return [(pair[0], (map_HWC == pair).all(-1)) for pair in pairs if pair[0] > 0]


def quality_by_loops(first_HWC, second_HWC):
  first, second = masks_of(first_HWC), masks_of(second_HWC)
  total = 0.0
  for class_1, mask_1 in first:
    for class_2, mask_2 in second:
      iou = (mask_1 & mask_2).sum() / (mask_1 | mask_2).sum()
      if class_1 == class_2 and iou > 0.5:
        total += iou
  num_segments = (len(first) + len(second)) / 2
  return total / num_segments if num_segments else 1.0


def test_segment_quality_equals_loops_over_segments():
  rng = np.random.default_rng(0)
  blocks = rng.integers(0, 3, (6, 4, 4, 2))
  first = blocks.repeat(4, 1).repeat(4, 2).astype(np.int32)
  # Every image is a little less like its first version than the one before.
  second = np.stack([np.roll(x, i, axis=0) for i, x in enumerate(first)])
  second[5] = 0
  first[4], second[4] = 0, 0
  # Instances may have any numbers.
  second[3, ..., 1] *= 1_000_000
  got = jax.jit(agreement.segment_quality)(first, second)
  want = [quality_by_loops(*pair) for pair in zip(first, second, strict=True)]
  np.testing.assert_allclose(got, want, atol=1e-5)
  assert got[0] == 1 and 0 < got[1] < 1 and got[4] == 1 and got[5] == 0
  np.testing.assert_allclose(
      jax.jit(agreement.segment_quality)(second, first), want, atol=1e-5)
