"""Casts rays into a room: colour, segments and depth, in numpy alone.

One ray per pixel finds what is seen; pixels where the picture changes get three
more, each with its own sample of the area light, so that edges are smooth and
shadows soft at a fraction of full supersampling.

Axes: N rays or points, H W pixels, 3 = x, y, z or R, G, B. float32; metres.
"""

from typing import NamedTuple

import numpy as np

from pp import rooms_scene
from pp import rooms_shapes as shapes
from pp.rooms_scene import CLUTTER, LABEL
from pp.rooms_shapes import at, dot, intersect, put

FLOOR, CEILING, LEFT, RIGHT, BACK, FRONT = range(-1, -7, -1)
_PLANE_NORMALS = np.float32([
    (0, 1, 0), (0, -1, 0), (1, 0, 0), (-1, 0, 0), (0, 0, -1), (0, 0, 1)]).T
_OFFSETS = np.float32([(-0.1, -0.36), (0.36, 0.1), (-0.26, 0.26)])
# Linear light → 8-bit sRGB-like, by table: a power per pixel costs more.
_GAMMA = np.round(
    255 * np.linspace(0, 1, 4096) ** (1 / 2.2)).astype(np.uint8)
MIN_VISIBLE = 0.004  # Things showing less of the image than this are void.
DEPTH_STEP = 256  # Depth is a multiple of 4 mm: it compresses twice as well.


class Hits(NamedTuple):
  """What each ray meets first."""
  d: np.ndarray  # [3, N] direction.
  t: np.ndarray  # [N] distance = planar depth, metres.
  who: np.ndarray  # [N] int8: number of the thing, or a plane's code < 0.
  prim: np.ndarray  # [N] int8: primitive of the thing.


def _room_hits(scene, d):
  """Distance and plane code of the room's own surface along each ray."""
  (w, h, depth), eye = scene.room, scene.eye
  inv = 1 / (d + np.float32(1e-20))
  # Seen from inside, the wall ahead is the larger of two crossings.
  tx, ty, tz = (np.maximum((size - start) * i, -start * i) for size, start, i
                in zip((w, h, depth), eye, inv, strict=True))
  t = np.minimum(np.minimum(tx, ty), tz)
  who = np.where(d[2] > 0, np.int8(BACK), np.int8(FRONT))
  np.copyto(who, LEFT - (d[0] > 0), where=tx == t, casting="unsafe")
  np.copyto(who, FLOOR - (d[1] > 0), where=ty == t, casting="unsafe")
  return t, who


def trace(scene, u, v):
  """First hits of the rays through pixel positions (u, v) [N] float32."""
  d = rooms_scene.ray_directions(scene, u, v)
  t, who = _room_hits(scene, d)
  prim = np.zeros(t.shape, np.int8)
  h, w = scene.shape
  for i, thing in enumerate(scene.things):
    x, y, z = rooms_scene.to_camera(scene, shapes.corners(thing))
    if z.min() > 0.05:
      x, y = w / 2 + scene.focal * x / z, h / 2 + scene.focal * y / z
      near = np.flatnonzero((u > x.min()) & (u < x.max()) &
                            (v > y.min()) & (v < y.max()))
    else:  # Partly behind the camera: its outline has no finite box.
      near = np.arange(len(u))
    if not len(near):
      continue
    hit, part = intersect(thing, scene.eye, at(d, near))
    closer = hit < t[near]
    near = near[closer]
    t[near], who[near], prim[near] = hit[closer], i, part[closer]
  return Hits(d, t, who, prim)


def _in_rug(rug, p):
  """Rug coordinates of floor points (±1 at the rim) and who is on it."""
  x, z = p[0] - rug.center[0], p[2] - rug.center[1]
  c, s = np.float32(np.cos(rug.yaw)), np.float32(np.sin(rug.yaw))
  a, b = (c * x - s * z) / rug.half[0], (s * x + c * z) / rug.half[1]
  r = np.sqrt(a * a + b * b) if rug.round else np.maximum(np.abs(a), np.abs(b))
  return r, r < 1


def _along(who, p):
  """The horizontal coordinate along the wall each point is on."""
  return np.where((who == LEFT) | (who == RIGHT), p[2], p[0])


def _in_window(window, who, p):
  """Window coordinates (±1 at the frame) of wall points, and who is in it."""
  code = (LEFT, RIGHT, BACK)[window.wall]
  a = (_along(who, p) - window.center[0]) / window.half[0]
  b = (p[1] - window.center[1]) / window.half[1]
  return a, b, (who == code) & (np.abs(a) < 1) & (np.abs(b) < 1)


def surface_labels(scene, hits, p):
  """Label of what every ray meets, int16 [N]; CLUTTER where nobody knows."""
  things = [thing.label for thing in scene.things]
  planes = [LABEL["wall"]] * 4 + [LABEL["ceiling"], LABEL["floor"]]
  table = np.array(things + planes, np.int16)  # Codes < 0 index from the end.
  label = table[hits.who]
  if scene.rug is not None:
    floor = np.flatnonzero(hits.who == FLOOR)
    on = _in_rug(scene.rug, at(p, floor))[1]
    label[floor[on]] = LABEL["rug"]
  if scene.window is not None:
    label[_in_window(scene.window, hits.who, p)[2]] = LABEL["window"]
  return label


def _fade(scene, size, t):
  """How much of a texture of this period (metres) a pixel still resolves."""
  return np.clip(size * scene.focal / (3 * t) - np.float32(0.4), 0, 1)


def _odd(x):
  """1 where whole numbers are odd, else 0: `x % 2` without its slowness."""
  return x - 2 * np.floor(x / 2)


def _floor_color(scene, p, t):
  pattern, size, (one, two) = scene.floor
  size = np.float32(size)
  i, j = np.floor(p[0] / size), np.floor(p[2] / size)
  if pattern == 0:  # Planks along z, each with its own tone.
    i = np.floor(p[0] / (size / 2))
    row = np.floor(p[2] / 1.4 + scene.noise[i.astype(int) & 255])
    mix = scene.noise[(i * 37 + row * 11).astype(int) & 255] * np.float32(0.8)
    size = size / 2
  elif pattern == 1:  # Chequered.
    mix = _odd(i + j)
  elif pattern == 2:  # Tiles with grout.
    x, z = p[0] / size - i, p[2] / size - j
    grout = (np.minimum(x, z) < 0.1).astype(np.float32)
    mix = np.maximum(grout, scene.noise[
        (i * 17 + j * 5).astype(int) & 255] * np.float32(0.25))
  else:  # Carpet: slow waves.
    mix = np.float32(0.25) * (2 + np.sin(p[0] * 3 + p[2]) + np.sin(
        p[2] * 4 - p[0]))
  mix = np.float32(0.4) + (mix - np.float32(0.4)) * _fade(scene, size, t)
  color = one[:, None] * (1 - mix) + two[:, None] * mix
  if scene.rug is not None:
    r, on = _in_rug(scene.rug, p)
    band = (_odd(np.floor(r * scene.rug.bands)) == 0) ^ (r > 0.93)
    woven = np.where(band, *scene.rug.colors[:, :, None])
    color = np.where(on, woven, color)
  return color


def _wall_color(scene, who, p, t):
  pattern, size, (one, two) = scene.wall
  size, x = np.float32(size), _along(who, p)
  if pattern == 0:
    mix = np.zeros_like(x)
  elif pattern == 1:  # Wallpaper stripes.
    mix = _odd(np.floor(x / size)) * _fade(scene, size, t)
  elif pattern == 2:  # Wainscot below a rail.
    mix = (p[1] < 0.95) + np.float32(0.6) * (np.abs(p[1] - 0.95) < 0.03)
  else:  # Painted bricks.
    row = np.floor(p[1] / (size / 2))
    a = x / size + row / 2
    joint = np.minimum(2 * (a - np.floor(a)), p[1] / size * 2 - row) < 0.17
    mix = joint * np.float32(0.9) * _fade(scene, size / 3, t)
  color = one[:, None] * (1 - mix) + two[:, None] * mix
  return np.where(p[1] < 0.09, np.float32(0.72), color)  # Skirting board.


def _sky(window, a, b):
  """Light through a window and its white bars; [3, N], [N] bool."""
  mix = (b + 1) / 2
  color = window.sky[0][:, None] * (1 - mix) + window.sky[1][:, None] * mix
  bar = (np.abs(a) > 0.88) | (np.abs(b) > 0.85)
  for x, count, width in ((a, window.panes[0], 0.06),
                          (b, window.panes[1], 0.08)):
    cell = (x + 1) / 2 * count
    inner = np.abs(cell - np.round(cell)) * 2 / count < width
    bar |= inner
  return color, bar


def _albedo_and_normals(scene, hits, p):
  n = at(_PLANE_NORMALS, -1 - np.minimum(hits.who, -1))
  albedo = np.empty_like(p)
  albedo[:] = scene.ceiling[:, None]
  floor = np.flatnonzero(hits.who == FLOOR)
  put(albedo, floor, _floor_color(scene, at(p, floor), hits.t[floor]))
  wall = np.flatnonzero(hits.who <= LEFT)
  put(albedo, wall, _wall_color(
      scene, hits.who[wall], at(p, wall), hits.t[wall]))
  for i, thing in enumerate(scene.things):
    mine = np.flatnonzero(hits.who == i)
    if len(mine):
      prim = hits.prim[mine]
      put(n, mine, shapes.normals(thing, prim, at(p, mine)))
      put(albedo, mine, at(thing.colors.T, prim))
  return albedo, n


def _lit(scene, p, n, lamps_L3N):
  """Share of the light samples that reach the surface points, [N].

  `lamps_L3N` holds L samples, the same for all points (N = 1) or one per
  point.
  """
  num, points = len(lamps_L3N), p.shape[1]
  start = p + np.float32(4e-3) * n
  lamp = scene.lamp[:, None]
  ray = lamp - start
  facing = dot(ray, n) > -scene.spread
  length = np.sqrt(dot(ray, ray))
  unit = ray / length
  dark = np.zeros((num, points), bool)
  for thing in scene.things:
    # Only points whose way to the light passes the ball around the thing.
    center, radius = shapes.bounding_sphere(thing)
    to = center[:, None] - start
    along = dot(to, unit)
    off = dot(to, to) - along * along
    reach = radius + scene.spread
    near = np.flatnonzero((off < reach * reach) & facing &
                          (along > -reach) & (along < length + reach))
    if len(near):
      here = at(start, near)
      rays = [(at(x, near) if x.shape[1] > 1 else x) - here
              for x in lamps_L3N]
      hit, _ = intersect(thing, np.tile(here, num), np.concatenate(rays, 1))
      dark[:, near] |= hit.reshape(num, -1) < 1
  return 1 - dark.mean(0, dtype=np.float32)


def _ambient(scene, hits, p, n):
  """Share of the sky each point sees: darker in corners and under things."""
  # Light from above, and half as much again thrown back by the floor.
  open_ = np.float32(0.8) + np.float32(0.2) * n[1] - np.minimum(n[1], 0) / 2
  for axis in range(3):
    side = np.minimum(p[axis], scene.room[axis] - p[axis])
    open_ *= 1 - (1 - np.abs(n[axis])) / (side * side * 80 + np.float32(3.2))
  for i, thing in enumerate(scene.things):
    center, radius = shapes.bounding_sphere(thing)
    radius *= 0.8
    to = center[:, None] - p
    square = dot(to, to)
    near = np.flatnonzero((square < 9 * radius * radius) & (hits.who != i))
    square = square[near]
    cos = np.maximum(dot(at(to, near), at(n, near)), 0) / np.sqrt(square)
    block = cos * np.minimum(radius * radius / square, 1)
    open_[near] *= 1 - np.float32(0.75) * block
  return open_


def shade(scene, hits, lamps_L3N):
  """Linear RGB [3, N] of what the rays hit, lit by the given light samples."""
  p = scene.eye[:, None] + hits.t * hits.d
  albedo, n = _albedo_and_normals(scene, hits, p)
  lit = _lit(scene, p, n, lamps_L3N)
  to = scene.lamp[:, None] - p
  square = dot(to, to)
  to = to / np.sqrt(square)
  toward = np.maximum(dot(to, n), 0)
  direct = lit * toward * np.float32(4.8) / (square + np.float32(2.2))
  view = hits.d / np.sqrt(dot(hits.d, hits.d))
  # A weak lamp at the camera: faces in shadow keep their shape.
  fill = np.float32(0.12) * np.abs(dot(view, n))
  soft = np.float32(scene.ambient) * _ambient(scene, hits, p, n) + fill
  color = albedo * (direct * scene.warmth[:, None] + soft)
  solid = np.flatnonzero(hits.who >= 0)
  half = at(to, solid) - at(view, solid)
  shine = np.maximum(dot(half, at(n, solid)), 0) / np.sqrt(dot(half, half))
  for _ in range(5):  # To the 32nd power.
    shine = shine * shine
  gloss = np.float32([thing.gloss for thing in scene.things] + [0])
  shine = gloss[hits.who[solid]] * shine * lit[solid]
  put(color, solid, at(color, solid) + shine)
  if scene.window is not None:
    a, b, inside = _in_window(scene.window, hits.who, p)
    here = np.flatnonzero(inside)
    sky, bar = _sky(scene.window, a[here], b[here])
    put(color, here, np.where(bar, at(color, here) * np.float32(1.15), sky))
  return color


def _refine(scene, hits, color, shape):
  """Replaces pixels on edges by the mean of three finer rays, in place."""
  tone = np.sqrt(color.reshape(3, *shape))
  who = (hits.who * np.int16(16) + hits.prim).reshape(shape)
  edge = np.zeros(shape, bool)
  for axis in (0, 1):
    a = (slice(None, -1), slice(None)) if axis == 0 else (
        slice(None), slice(None, -1))
    b = (slice(1, None), slice(None)) if axis == 0 else (
        slice(None), slice(1, None))
    jump = np.abs(tone[:, *a] - tone[:, *b]).max(0) > 0.1
    jump |= who[a] != who[b]
    edge[a] |= jump
    edge[b] |= jump
  row, col = np.nonzero(edge)
  if not len(row):
    return
  uv = np.stack([col, row]).astype(np.float32) + np.float32(0.5)
  uv = np.concatenate(_OFFSETS[:, :, None] + uv, axis=1)
  lamps = np.repeat(scene.lights.T, len(row), axis=1)
  fine = shade(scene, trace(scene, *uv), lamps[None])
  put(color, edge.ravel(), np.minimum(fine, 1).reshape(3, 3, -1).mean(1))


def _edges(x_HW):
  """Pixels with a 4-neighbour of another value."""
  edge = np.zeros(x_HW.shape, bool)
  down, right = x_HW[1:] != x_HW[:-1], x_HW[:, 1:] != x_HW[:, :-1]
  edge[1:] |= down
  edge[:-1] |= down
  edge[:, 1:] |= right
  edge[:, :-1] |= right
  return edge


def _segments(rng, label_HW, who_HW):
  """Segment ids (0 = void) and the list of objects.

  Things are one segment each, stuff one per category, as in COCO; about half
  of the images have unlabelled pixels along the rims of some segments.
  """
  part = np.where(who_HW >= 0, who_HW, 100 + label_HW).astype(np.int32)
  part[label_HW == CLUTTER] = 255
  rim = _edges(part)
  sloppy = rng.random(256) < (0.35 if rng.random() < 0.5 else 0.0)
  area = np.bincount(part.ravel(), minlength=256)
  # On small segments a rim of one pixel would be a quarter of the segment.
  sloppy &= area > 0.03 * part.size
  part[rim & sloppy[part]] = 255
  # Ids as in COCO: unrelated to order, and often above 255.
  ids = rng.choice(1 << 24, 256, replace=False) + 1
  area = np.bincount(part.ravel(), minlength=256)
  table, objects = np.zeros(256, np.int32), []
  for k in np.flatnonzero(area[:255] >= MIN_VISIBLE * part.size):
    mask = part == k
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    table[k] = ids[k] % ((1 << 24) - 1) + 1
    objects.append(dict(
        id=int(table[k]), label=int(label_HW[mask][0]), area=int(area[k]),
        bbox=(int(rows[0]), int(cols[0]), int(rows[-1]) + 1,
              int(cols[-1]) + 1), is_crowd=False))
  return table[part], objects


def _depth(rng, t_HW, label_HW):
  """Planar depth in metres with the holes of a depth camera (0)."""
  depth = np.round(t_HW * DEPTH_STEP) / np.float32(DEPTH_STEP)
  # A projector to the left of the camera leaves shadows beside near things.
  gap = np.zeros(depth.shape, bool)
  for step in (1, 2):
    gap[:, :-step] |= depth[:, :-step] - depth[:, step:] > 0.5 * step
  depth[gap] = 0
  if rng.random() < 0.5:  # Glass sends nothing back.
    depth[label_HW == LABEL["window"]] = 0
  h, w = depth.shape
  y, x = np.ogrid[:h, :w]
  for cy, cx, ry, rx in rng.uniform((0, 0, 1, 1), (h, w, 4, 5),
                                    (rng.integers(4), 4)):
    depth[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1] = 0
  return depth


def generator(seed, index):
  """The one source of randomness of scene `index` of stream `seed`."""
  return np.random.Generator(np.random.Philox(
      np.random.SeedSequence((seed, index))))


def render(seed, index, height=None, width=None):
  """Renders one scene, the same on every call and in every process.

  Args:
    seed: stream of scenes, an int ≥ 0; each split has its own.
    index: number of the scene in the stream, an int ≥ 0.
    height: pixels; None draws a size around 96 × 128 or 128 × 96.
    width: pixels, likewise.

  Returns:
    dict: `image` uint8 [h, w, 3]; `segments` int32 [h, w], 0 = void;
    `objects`, a list of dicts with id, label (position in CATEGORIES), area
    (pixels), bbox (top, left, bottom, right in pixels, ends exclusive) and
    is_crowd (False); `depth` float32 [h, w], metres along the optical axis,
    0 = hole.
  """
  rng = generator(seed, index)
  scene = rooms_scene.sample(rng, height, width)
  h, w = scene.shape
  v, u = np.indices(scene.shape, np.float32).reshape(2, -1) + np.float32(0.5)
  hits = trace(scene, u, v)
  label = surface_labels(scene, hits, scene.eye[:, None] + hits.t * hits.d)
  color = np.minimum(shade(scene, hits, scene.lights[:, :, None]), 1)
  _refine(scene, hits, color, scene.shape)
  image = _GAMMA[(np.clip(color, 0, 1) * 4095).astype(np.int16)]
  label, who = label.reshape(h, w), hits.who.reshape(h, w)
  segments, objects = _segments(rng, label, who)
  return dict(image=np.ascontiguousarray(image.reshape(3, h, w).transpose(
                  1, 2, 0)), segments=segments, objects=objects,
              depth=_depth(rng, hits.t.reshape(h, w), label))
