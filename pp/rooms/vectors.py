"""Vector arithmetic on columns, in numpy's cheapest calls.

A scene is traced as some thousand rays at a time. On arrays this small a call
of numpy costs more than what it computes, so the calls made most often have a
faster spelling here.

Axes: 3 = x, y, z or R, G, B; N columns. The components come first (`x_3N`), so
that all values of one component are contiguous. Arrays are float32.
"""

import numpy as np


def take_columns(values_3N, indices):
  """`values_3N[:, indices]`, nine times as fast."""
  return values_3N.take(indices, axis=1)


def set_columns(target_3N, indices, values_3N):
  """`target_3N[:, indices] = values_3N`, six times as fast."""
  for component, values in zip(target_3N, values_3N, strict=True):
    component[indices] = values


def true_indices(flags_N):
  """`np.flatnonzero(flags_N)`, twice as fast on small arrays."""
  return flags_N.nonzero()[0]


def stack_xyz(x, y, z):
  """Stacks three components to float32 [3, ...].

  It is `np.stack`, four times as fast on small arrays. `x` and `y` are
  broadcast to the shape of `z`.
  """
  stacked = np.empty((3, *z.shape), np.float32)
  stacked[0] = x
  stacked[1] = y
  stacked[2] = z
  return stacked


def column_dots(left_3N, right_3N):
  """Inner products of the columns, [N]."""
  return np.add.reduce(left_3N * right_3N)


def rotate_y(vectors_3N, cosine, sine):
  """Rotates vectors about the vertical axis.

  Args:
    vectors_3N: the vectors; further axes may follow the first.
    cosine: cosine of the angle, broadcast to the vectors.
    sine: sine of the angle, likewise.
  """
  x, y, z = vectors_3N
  rotated_x = cosine * x + sine * z
  rotated_z = cosine * z - sine * x
  return stack_xyz(rotated_x, y, rotated_z)
