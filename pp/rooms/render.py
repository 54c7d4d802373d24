"""Renders a room: colour, segments and depth, in numpy alone.

One ray per pixel finds what is seen; pixels where the picture changes get three
more, each with its own sample of the area light, so that edges are smooth and
shadows soft at a fraction of full supersampling.

Axes: H W pixels, 3 = R, G, B. Depth in metres.
"""

import numpy as np

from pp.rooms import scene as rooms_scene
from pp.rooms import surfaces as rooms_surfaces
from pp.rooms.shade import shade
from pp.rooms.shapes import at, put, where
from pp.rooms.things import CLUTTER, LABEL
from pp.rooms.trace import FLOOR, prepare, trace

_OFFSETS = np.float32([(-0.1, -0.36), (0.36, 0.1), (-0.26, 0.26)])
# Linear light → 8-bit sRGB-like, by table: a power per pixel costs more.
_GAMMA = np.round(
    255 * np.linspace(0, 1, 4096) ** (1 / 2.2)).astype(np.uint8)
MIN_VISIBLE = 0.004  # Things showing less of the image than this are void.
DEPTH_STEP = 256  # Depth is a multiple of 4 mm: it compresses twice as well.
# Segments while rendering: a thing's number, this + a label of stuff, or void.
_STUFF, _VOID = 100, 255


def _centers(index):
  """Positions of the middles of pixels."""
  return index.astype(np.float32) + np.float32(0.5)


def _image(color, shape):
  """Linear RGB [3, H·W] in 0..1 → uint8 [H, W, 3]."""
  image = np.empty((*shape, 3), np.uint8)
  tone = (color * 4095).astype(np.intp)
  put(image.reshape(-1, 3).T, slice(None), _GAMMA.take(tone))
  return image


def _parts(view, hits):
  """The segment of every hit, [N] int, as things' numbers and _STUFF."""
  scene = view.scene
  things = [_VOID if thing.label == CLUTTER else i
            for i, thing in enumerate(scene.things)]
  # Planes' codes < 0 index from the end.
  planes = [_STUFF + LABEL["wall"]] * 4 + [
      _STUFF + LABEL["ceiling"], _STUFF + LABEL["floor"]]
  part = np.array(things + planes).take(hits.who)
  if scene.rug is not None:
    floor = where(hits.part == FLOOR)
    r = rooms_surfaces.on_rug(scene.rug, at(hits.p, floor))
    part[floor.compress(r < 1)] = _STUFF + LABEL["rug"]
  if scene.window is not None:
    inside = rooms_surfaces.in_window(scene.window, hits.part, hits.p)[0]
    part[inside] = _STUFF + LABEL["window"]
  return part


def _edges(x_HW):
  """Pixels with a 4-neighbour of another value."""
  edge = np.zeros(x_HW.shape, bool)
  for x, side in ((x_HW, edge), (x_HW.T, edge.T)):
    change = x[1:] != x[:-1]
    side[1:] |= change
    side[:-1] |= change
  return edge


def _refine(view, hits, color):
  """Replaces pixels on edges by the mean of three finer rays, in place."""
  h, w = view.scene.shape
  edge = _edges(hits.part.reshape(h, w))
  tone = np.sqrt(color).reshape(3, h, w)
  for x, side in ((tone, edge), (tone.swapaxes(1, 2), edge.T)):
    jump = np.abs(x[:, 1:] - x[:, :-1]).max(0) > 0.1
    side[1:] |= jump
    side[:-1] |= jump
  edge = where(edge.reshape(-1))
  if not len(edge):
    return
  row, column = np.divmod(edge, w)
  uv = _OFFSETS[:, :, None] + _centers(np.array([column, row]))
  fine = trace(view, *np.concatenate(uv, axis=1))
  lamps = np.repeat(view.scene.lights.T[:, None], len(edge), axis=2)
  fine = np.minimum(shade(view, fine, lamps), 1).reshape(3, 3, -1)
  put(color, edge, np.add.reduce(fine.swapaxes(0, 1)) / 3)


def _span(there_N):
  """Where the first True is, and behind the last."""
  there = there_N.tobytes()
  return there.find(1), there.rfind(1) + 1


def _segments(rng, part_HW, labels):
  """Segment ids (0 = void) and the list of objects.

  Things are one segment each, stuff one per category, as in COCO; about half
  of the images have unlabelled pixels along the rims of some segments.
  `part_HW` is overwritten; `labels` are those of the things.
  """
  part, size = part_HW, part_HW.size
  sloppy = rng.random(256) < (0.35 if rng.random() < 0.5 else 0.0)
  # On small segments a rim of one pixel would be a quarter of the segment.
  area = np.bincount(part.ravel(), minlength=256)
  sloppy &= area > 0.03 * size
  if sloppy.any():
    part[_edges(part) & sloppy.take(part)] = _VOID
    area = np.bincount(part.ravel(), minlength=256)
  # Ids as in COCO: unrelated to order, and often above 255.
  ids = rng.choice(1 << 24, 256, replace=False) + 1
  table, objects = np.zeros(256, np.int32), []
  small = part.astype(np.uint8)
  for k in where(area[:_VOID] >= MIN_VISIBLE * size).tolist():
    mask = small == k
    top, bottom = _span(np.logical_or.reduce(mask, 1))
    left, right = _span(np.logical_or.reduce(mask, 0))
    table[k] = ids[k] % ((1 << 24) - 1) + 1
    objects.append(dict(
        id=int(table[k]), label=labels[k] if k < _STUFF else k - _STUFF,
        area=int(area[k]), bbox=(top, left, bottom, right), is_crowd=False))
  return table.take(part), objects


def _depth(rng, t_HW, window_HW):
  """Planar depth in metres with the holes of a depth camera (0)."""
  depth = np.round(t_HW * DEPTH_STEP) / np.float32(DEPTH_STEP)
  # A projector to the left of the camera leaves shadows beside near things.
  gap = np.zeros(depth.shape, bool)
  for step in (1, 2):
    gap[:, :-step] |= depth[:, :-step] - depth[:, step:] > 0.5 * step
  if rng.random() < 0.5:  # Glass sends nothing back.
    gap |= window_HW
  h, w = depth.shape
  y, x = np.arange(h)[:, None], np.arange(w)
  blobs = rng.random((rng.integers(4), 4)) * (h, w, 3, 4) + (0, 0, 1, 1)
  for cy, cx, ry, rx in blobs:
    gap |= ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
  return depth * ~gap


def _keep_memory():
  """Keeps glibc from handing memory back to the system after each scene.

  It stops once a block as large as this was freed. The page faults of getting
  the memory again would cost a tenth of all rendering.
  """
  np.empty(3 << 20, np.uint8)


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
  _keep_memory()
  rng = generator(seed, index)
  scene = rooms_scene.sample(rng, height, width)
  h, w = scene.shape
  view = prepare(scene)
  hits = trace(view, _centers(np.arange(w)[None]),
               _centers(np.arange(h)[:, None]))
  color = np.minimum(shade(view, hits, scene.lights.T[:, :, None]), 1)
  _refine(view, hits, color)
  part = _parts(view, hits).reshape(h, w)
  window = part == _STUFF + LABEL["window"]
  segments, objects = _segments(
      rng, part, [thing.label for thing in scene.things])
  return dict(image=_image(color, scene.shape), segments=segments,
              objects=objects, depth=_depth(rng, hits.t.reshape(h, w), window))
