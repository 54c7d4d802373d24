"""Spheres, boxes and upright frusta: where rays meet them, and their normals.

Solids only, standing upright and turned about the vertical axis: enough for
furniture, and every ray is answered by a closed formula. Rays meet all
primitives of a scene in one go: on bundles this small a numpy call costs more
than what it computes.

Axes: N rays or points, M things, K primitives, P pairs of a primitive and a
ray that may meet, 3 = x (right), y (up), z (away from the front wall).
Arrays are float32 and component-major (`x_3N`), so that one component is
contiguous. Lengths are metres.
"""

from typing import NamedTuple

import numpy as np

EPS = np.float32(1e-3)
FAR = np.float32(1e9)
_CORNERS = np.indices((2, 2, 2)).reshape(3, 8, 1) == 1
_TINY = np.float32(1e-20)  # Added where a division by 0 must not be.


class Thing(NamedTuple):
  """One solid object made of primitives in its own frame.

  Primitives are numbered spheres first, then boxes, then frusta.
  """
  label: int  # Position in CATEGORIES; -1: clutter nobody labelled.
  origin: np.ndarray  # [3] where the local frame stands in the room.
  yaw: float  # Turn about y, radians.
  spheres: np.ndarray  # [K, 4] centre, radius.
  boxes: np.ndarray  # [K, 6] centre, half sizes.
  frusta: np.ndarray  # [K, 6] centre x, z; bottom, top; radius at each.
  colors: np.ndarray  # [K, 3] linear RGB of every primitive.
  gloss: float  # Strength of the highlight, 0..1.
  low: np.ndarray  # [3] lower corner of the local bounding box.
  high: np.ndarray  # [3] upper corner.


class Solids(NamedTuple):
  """The primitives of all things of a scene, one column each: all spheres,
  then all boxes, then all frusta, in the order of the things."""
  owner: np.ndarray  # [K] number of the thing.
  starts: tuple  # Numbers of the first sphere, box, frustum; K.
  table_13K: np.ndarray  # Frame: origin of the thing; cosine and sine of its
  # yaw. Then the shape in that frame, see `_sphere`, `_box`, `_frustum`.
  colors_3K: np.ndarray
  corners_38K: np.ndarray  # Of the bounding boxes, room coordinates.
  balls_4M: np.ndarray  # Centres and radii of balls around the things.


def at(x_3N, index):
  """x_3N[:, index], nine times as fast."""
  return x_3N.take(index, axis=1)


def where(x_N):
  """np.flatnonzero(x_N), twice as fast on small arrays."""
  return x_N.nonzero()[0]


def put(x_3N, index, values_3N):
  """x_3N[:, index] = values_3N, six times as fast."""
  for row, values in zip(x_3N, values_3N, strict=True):
    row[index] = values


def rows(x, y, z):
  """np.stack([x, y, z]) in float32, four times as fast on small arrays; x
  and y are broadcast to the shape of z."""
  out = np.empty((3, *z.shape), np.float32)
  out[0], out[1], out[2] = x, y, z
  return out


def dot(a_3N, b_3N):
  """Inner products of columns, [N]."""
  return np.add.reduce(a_3N * b_3N)


def turn(x_3N, c, s):
  """x_3N turned about the vertical axis by the angle with cosine c and sine
  s."""
  x, y, z = x_3N
  return rows(c * x + s * z, y, c * z - s * x)


def bounds(spheres, boxes, frusta):
  """Lower and upper corners [2, K, 3] of the boxes around primitives."""
  parts = []
  for shape in (spheres, boxes):
    if len(shape):
      middle, reach = shape[:, :3], shape[:, 3:]
      parts.append((middle - reach, middle + reach))
  if len(frusta):
    x, z, bottom, top, r0, r1 = frusta.T
    r = np.maximum(r0, r1)
    parts.append(np.array([(x - r, bottom, z - r), (x + r, top, z + r)])
                 .transpose(0, 2, 1))
  if len(parts) == 1:
    return parts[0]
  return np.concatenate([np.zeros((2, 0, 3), np.float32), *parts], axis=1)


def _bounding_balls(things, frame):
  """[4, M]: centres in room coordinates and radii of balls around things."""
  low = np.array([thing.low for thing in things], np.float32)
  high = np.array([thing.high for thing in things], np.float32)
  middle = ((low + high) / 2).reshape(-1, 3).T
  half = high.reshape(-1, 3).T - middle
  center = turn(middle, *frame[3:]) + frame[:3]
  return np.concatenate([center, np.sqrt(dot(half, half))[None]])


def _frames(things):
  """[5, M]: origins; cosines and sines of the yaws."""
  frame = np.empty((5, len(things)), np.float32)
  yaw = np.array([thing.yaw for thing in things])
  frame[:3] = np.array([thing.origin for thing in things]).reshape(-1, 3).T
  frame[3], frame[4] = np.cos(yaw), np.sin(yaw)
  return frame


def solids(things):
  """The primitives of `things` in one table."""
  kinds = [[], [], []]  # Number, shapes and colours of every thing.
  for i, thing in enumerate(things):
    colors = thing.colors
    for kind, shapes in zip(kinds, (thing.spheres, thing.boxes, thing.frusta),
                            strict=True):
      kind.append((i, shapes, colors[:len(shapes)]))
      colors = colors[len(shapes):]
  balls, boxes, frusta = (
      np.concatenate([np.zeros((0, width), np.float32)] + [
          shapes for _, shapes, _ in kind])
      for kind, width in zip(kinds, (4, 6, 6), strict=True))
  flat = kinds[0] + kinds[1] + kinds[2]
  owner = np.array([i for i, shapes, _ in flat for _ in shapes], int)
  colors = np.concatenate([np.zeros((0, 3), np.float32)] + [
      colors for _, _, colors in flat]).T
  starts = 0, len(balls), len(balls) + len(boxes), len(owner)
  frames, table = _frames(things), np.zeros((13, len(owner)), np.float32)
  frame, shape = table[:5], table[5:]
  frame[:] = at(frames, owner)
  shape[:4, :starts[1]] = balls.T
  shape[:6, starts[1]:starts[2]] = boxes.T
  x, z, bottom, top, r0, r1 = frusta.T
  shape[:, starts[2]:] = (x, bottom, z, (r1 - r0) / (top - bottom), 0 * top,
                          top - bottom, r0, r1)
  low, high = bounds(balls, boxes, frusta)
  corners = np.where(_CORNERS, high.T[:, None], low.T[:, None])
  corners = turn(corners, *frame[3:])
  return Solids(owner, starts, table, colors, corners + frame[:3, None],
                _bounding_balls(things, frames))


def pairs(u, v, low_2K, high_2K, allowed=None):
  """All pairs of a box k in the plane and a point n inside it.

  Args:
    u: first coordinate of the points.
    v: second coordinate; u and v are broadcast to the N points.
    low_2K: lower corners of the boxes.
    high_2K: upper corners.
    allowed: bool [K, N], which pairs to look at; None: all.

  Returns:
    How many pairs each box has, [K], and their points n [P] in that order.
  """
  axes = *low_2K.shape, *(1,) * u.ndim
  low, high = low_2K.reshape(axes), high_2K.reshape(axes)
  inside = ((u > low[0]) & (u < high[0])) & ((v > low[1]) & (v < high[1]))
  if allowed is not None:
    inside &= allowed
  flat = where(inside.reshape(-1))
  num = len(inside)
  size = inside.size // max(num, 1)
  starts = np.arange(num + 1) * size
  ends = flat.searchsorted(starts)
  count = ends[1:] - ends[:-1]
  return count, flat - np.repeat(starts[:-1], count)


def to_local(frame, x_3N):
  """Room coordinates → those in the frames of things."""
  return turn(x_3N - frame[:3], frame[3], -frame[4])


def _or_far(t, ok):
  """np.where(ok, t, FAR) for t ≥ 0 where ok, without its slowness."""
  return np.maximum(t, ~ok * FAR)


def _sphere(ball, o, d):
  """`ball`: centre, radius."""
  o = o - ball[:3]
  a, b = dot(d, d), dot(o[:, None], d)
  disc = b * b - a * (dot(o, o) - ball[3] * ball[3])
  t = (-b - np.sqrt(np.maximum(disc, 0))) / a
  return _or_far(t, (disc > 0) & (t > EPS))


def _box(box, o, d):
  """`box`: centre, half sizes."""
  # A ray exactly parallel to a slab would make 0 · inf.
  inv = 1 / (d + _TINY)
  t0 = (box[:3] - box[3:6] - o)[:, None] * inv
  t1 = (box[:3] + box[3:6] - o)[:, None] * inv
  near = np.maximum.reduce(np.minimum(t0, t1))
  far = np.minimum.reduce(np.maximum(t0, t1))
  return _or_far(near, (near < far) & (near > EPS))


def _frustum(cone, o, d):
  """`cone`: centre of the bottom; slope of the side; heights of the lids;
  their radii."""
  (x, y, z), (dx, dy, dz) = o - cone[:3], d
  k, lids, radii = cone[3], cone[4:6], cone[6:]
  # x² + z² = r(y)² with r linear in y: a quadratic in t.
  r, dr = radii[0] + k * y, k * dy
  a = dx * dx + dz * dz - dr * dr
  b = x * dx + z * dz - r * dr
  disc = b * b - a * (x * x + z * z - r * r)
  root = np.sqrt(np.maximum(disc, 0))
  a = a + _TINY
  t = (-b - root) / a
  # A ray steeper than the side meets cone and mirror cone once each.
  steep = where(((a < 0) & (r + t * dr < 0)).reshape(-1))
  if len(steep):
    np.put(t, steep, ((root - b) / a).take(steep))
  h = y + t * dy
  side = _or_far(t, (disc > 0) & (t > EPS) & (h >= 0) & (h <= lids[1]))
  t = (lids - y)[:, None] * (1 / (dy + _TINY))
  u, v = x + t * dx, z + t * dz
  lid = _or_far(t, (t > EPS) & (u * u + v * v < (radii * radii)[:, None]))
  return np.minimum(side, np.minimum(lid[0], lid[1]))


def _spans(solids, count_K, *functions):
  """(function, its slice of the P pairs) for every kind that has pairs."""
  ends = [0, *count_K.cumsum().tolist()]
  for function, first, last in zip(functions, solids.starts[:-1],
                                   solids.starts[1:], strict=True):
    if ends[first] < ends[last]:
      yield function, slice(ends[first], ends[last])


def intersect(solids, count_K, o_3P, d_3LP):
  """Where each of L · P rays o + t·d enters the primitive it is paired with.

  Args:
    solids: K primitives.
    count_K: how many of the P pairs each has; the rays come in that order.
    o_3P: ray starts outside the solids; [3, 1] for one that all share.
    d_3LP: directions of L rays from each, any length; t counts in lengths.

  Returns:
    t_LP float32, FAR on a miss.
  """
  table = np.repeat(solids.table_13K, count_K, axis=1)
  frame, shape = table[:5], table[5:]
  o, d = to_local(frame, o_3P), turn(d_3LP, frame[3], -frame[4])
  t = np.empty(d.shape[1:], np.float32)
  for kind, mine in _spans(solids, count_K, _sphere, _box, _frustum):
    t[:, mine] = kind(shape[:, mine], o[:, mine], d[:, :, mine])
  return t


def _sphere_normal(ball, p):
  return (p - ball[:3]) / ball[3]


def _box_normal(box, p):
  q = (p - box[:3]) / box[3:6]
  size = np.abs(q)
  return np.sign(q) * (size == np.maximum.reduce(size))


def _frustum_normal(cone, p):
  x, y, z = p - cone[:3]
  k, lids, radii = cone[3], cone[4:6], cone[6:]
  r = np.sqrt(x * x + z * z) + np.float32(1e-6)
  # A hit on a lid is on its plane and inside its rim.
  tol = np.float32(2e-3)
  base, top = (np.abs(y - lids) < tol) & (r < radii - tol / 2)
  side = ~(top | base) / np.sqrt(1 + k * k)
  return rows(x / r * side, top.astype(np.float32) - base - k * side,
              z / r * side)


def normals(solids, count_K, p_3P):
  """Unit outward normals [3, P] at points on primitives.

  Args:
    solids: K primitives.
    count_K: how many points each has; the points come in that order.
    p_3P: points, room coordinates.
  """
  table = np.repeat(solids.table_13K, count_K, axis=1)
  frame, shape = table[:5], table[5:]
  p, n = to_local(frame, p_3P), np.empty_like(p_3P)
  for kind, mine in _spans(solids, count_K, _sphere_normal, _box_normal,
                           _frustum_normal):
    n[:, mine] = kind(shape[:, mine], p[:, mine])
  return turn(n, *frame[3:])
