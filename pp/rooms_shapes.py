"""Spheres, boxes and upright frusta: where rays meet them, and their normals.

Solids only, standing upright and turned about the vertical axis: enough for
furniture, and every ray is answered by a closed formula.

Axes: N rays, K primitives, 3 = x (right), y (up), z (away from the front wall).
Arrays are float32 and component-major (`x_3N`), so that one component is
contiguous. Lengths are metres.
"""

from typing import NamedTuple

import numpy as np

EPS = np.float32(1e-3)
FAR = np.float32(1e9)


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


def at(x_3N, index):
  """x_3N[:, index], nine times as fast."""
  return x_3N.take(index, axis=1)


def put(x_3N, index, values_3N):
  """x_3N[:, index] = values_3N, six times as fast."""
  for row, values in zip(x_3N, values_3N, strict=True):
    row[index] = values


def rows(x, y, z):
  """np.stack([x, y, z]) in float32, four times as fast on small arrays."""
  out = np.empty((3, *np.shape(x)), np.float32)
  out[0], out[1], out[2] = x, y, z
  return out


def dot(a_3N, b_3N):
  """Inner products of columns, [N]."""
  return a_3N[0] * b_3N[0] + a_3N[1] * b_3N[1] + a_3N[2] * b_3N[2]


def turn(x_3N, yaw):
  """x_3N turned by `yaw` about the vertical axis."""
  c, s = np.float32(np.cos(yaw)), np.float32(np.sin(yaw))
  return rows(c * x_3N[0] + s * x_3N[2], x_3N[1],
              c * x_3N[2] - s * x_3N[0])


def to_local(thing, x_3N):
  """Room coordinates → the frame of `thing`; x_3N is [3, N] or [3]."""
  origin = thing.origin if x_3N.ndim == 1 else thing.origin[:, None]
  return turn(x_3N - origin, -thing.yaw)


def corners(thing):
  """The eight corners of the bounding box in room coordinates, [3, 8]."""
  pick = np.indices((2, 2, 2)).reshape(3, 8)
  local = np.where(pick == 0, thing.low[:, None], thing.high[:, None])
  return turn(local.astype(np.float32), thing.yaw) + thing.origin[:, None]


def bounding_sphere(thing):
  """Centre [3] in room coordinates and radius of a ball around `thing`."""
  middle = (thing.low + thing.high) / 2
  center = turn(middle, thing.yaw) + thing.origin
  return center, float(np.linalg.norm(thing.high - middle))


def _sphere(ball, o, d):
  o = [o[i] - ball[i] for i in range(3)]
  a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
  b = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
  c = o[0] * o[0] + o[1] * o[1] + o[2] * o[2] - ball[3] * ball[3]
  disc = b * b - a * c
  t = (-b - np.sqrt(np.maximum(disc, 0))) / a
  return np.where((disc > 0) & (t > EPS), t, FAR)


def _box(box, o, inv):
  near, far = None, None
  for i in range(3):
    t0 = (box[i] - box[3 + i] - o[i]) * inv[i]
    t1 = (box[i] + box[3 + i] - o[i]) * inv[i]
    enter, leave = np.minimum(t0, t1), np.maximum(t0, t1)
    near = enter if near is None else np.maximum(near, enter)
    far = leave if far is None else np.minimum(far, leave)
  return np.where((near < far) & (near > EPS), near, FAR)


def _frustum(cone, o, d, inv_y):
  cx, cz, y0, y1, r0, r1 = cone
  x, y, z = o[0] - cx, o[1] - y0, o[2] - cz
  k = (r1 - r0) / (y1 - y0)
  # x² + z² = r(y)² with r linear in y: a quadratic in t.
  r, dr = r0 + k * y, k * d[1]
  a = d[0] * d[0] + d[2] * d[2] - dr * dr
  b = x * d[0] + z * d[2] - r * dr
  c = x * x + z * z - r * r
  disc = b * b - a * c
  root = np.sqrt(np.maximum(disc, 0))
  a = a + np.float32(1e-20)  # Never 0 in a division.
  t = (-b - root) / a
  if k:
    # A ray steeper than the side meets cone and mirror cone once each.
    t = np.where((a < 0) & (r + t * dr < 0), (root - b) / a, t)
  h = y + t * d[1]
  ok = (disc > 0) & (t > EPS) & (h >= 0) & (h <= y1 - y0)
  best = np.where(ok, t, FAR)
  for height, radius in ((0, r0), (y1 - y0, r1)):
    if not radius:
      continue
    t = (height - y) * inv_y
    u, v = x + t * d[0], z + t * d[2]
    ok = (t > EPS) & (u * u + v * v < radius * radius)
    best = np.where(ok, np.minimum(best, t), best)
  return best


def intersect(thing, o, d_3N):
  """First hits of rays o + t·d with `thing`.

  Args:
    thing: the solid.
    o: [3] or [3, N] float32 ray starts, room coordinates, outside the solid.
    d_3N: directions, of any length; t counts in their lengths.

  Returns:
    t_N float32 (FAR on a miss) and the primitive's number, int8 [N].
  """
  o, d = to_local(thing, o), turn(d_3N, -thing.yaw)
  hits = [_sphere(ball, o, d) for ball in thing.spheres]
  if len(thing.boxes) or len(thing.frusta):
    # A ray exactly parallel to a slab would make 0 · inf.
    inv = 1 / (d + np.float32(1e-20))
    hits += [_box(box, o, inv) for box in thing.boxes]
    hits += [_frustum(cone, o, d, inv[1]) for cone in thing.frusta]
  t, prim = hits[0], np.zeros(d.shape[1], np.int8)
  for k, other in enumerate(hits[1:], 1):
    prim[other < t] = k
    t = np.minimum(t, other)
  return t, prim


def _box_normal(box, p):
  q = (p - box[:3, None]) / box[3:, None]
  size = np.abs(q)
  face = size == np.maximum(np.maximum(size[0], size[1]), size[2])
  return np.sign(q) * face


def _frustum_normal(cone, p):
  cx, cz, y0, y1, r0, r1 = cone
  x, z = p[0] - cx, p[2] - cz
  k = (r1 - r0) / (y1 - y0)
  r = np.sqrt(x * x + z * z) + np.float32(1e-6)
  n = rows(x / r, -k, z / r) / np.sqrt(1 + k * k)
  # A hit on a lid is on its plane and inside its rim.
  tol = np.float32(2e-3)
  top = (p[1] > y1 - tol) & (r < r1 - tol / 2)
  base = (p[1] < y0 + tol) & (r < r0 - tol / 2)
  put(n, top, (0, 1, 0))
  put(n, base, (0, -1, 0))
  return n


def normals(thing, prim_N, p_3N):
  """Unit outward normals [3, N] at points p_3N on primitives prim_N."""
  p = to_local(thing, p_3N)
  n = np.zeros_like(p)
  balls, boxes = len(thing.spheres), len(thing.boxes)
  for k in range(len(thing.colors)):
    here = np.flatnonzero(prim_N == k)
    if not len(here):
      continue
    q = at(p, here)
    if k < balls:
      q = (q - thing.spheres[k, :3, None]) / thing.spheres[k, 3]
    elif k < balls + boxes:
      q = _box_normal(thing.boxes[k - balls], q)
    else:
      q = _frustum_normal(thing.frusta[k - balls - boxes], q)
    put(n, here, q)
  return turn(n, thing.yaw)
