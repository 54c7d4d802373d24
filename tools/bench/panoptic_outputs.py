"""C5: panoptic maps from the logits of a stage I model.

B batch · N patches · K classes or ids of one output · P pixels in a patch
H W image pixels
"""

from collections.abc import Callable, Iterator

import jax
import numpy as np

from tools.bench import measure, naive_panoptic, rows
from tools.bench.measure import Run, require, say
from tools.bench.rows import Row
from tools.bench.sizes import Size, stage_i
from uvim.learn import devices, sharding
from uvim.tasks import make_task

# The largest share of values that may differ. In 4 x 512² pixels one near tie
# between classes changes a whole segment.
MAX_DIFFERENT = 0.125


def panoptic_outputs(
    size: Size,
    naive_outputs: Callable = naive_panoptic.panoptic_outputs
) -> Iterator[Row]:
  """Images per second.

  Args:
    size: of the benchmark.
    naive_outputs: (semantics [B, N, K, P], instances [B, N, K, P]) → maps
      int32 [B, N, P, 2].
  """
  # As the commands that predict do.
  devices.add_spare()
  side, patch, num_classes, num_instances, batch_size = size.outputs
  grid = side // patch
  model = stage_i(side, patch, classes=num_classes, instances=num_instances)
  task = make_task("panoptic_segmentation", model)
  shapes = model["outputs"]
  logits = _draw_logits(shapes, batch_size, num_tokens=grid**2)

  def our_maps(logits):
    return task.outputs(logits)["panoptic"]

  def naive_maps(logits):
    maps = naive_outputs(logits["semantics"], logits["instances"])
    return _join_patches(maps, grid, patch)

  # Both get the same logits, so neither pays for a model.
  mesh, _ = sharding.spread_predictions(
      sharding.make_mesh([("data", 1)]), {}, batch_size)
  our_logits = jax.device_put(logits, sharding.batch_sharding(mesh))
  with jax.set_mesh(mesh):
    ours = Run(measure.compile_program(our_maps, our_logits, what="C5 ours"),
               (our_logits,))
  naive = Run(measure.compile_program(naive_maps, logits, what="C5 naive"),
              (logits,))
  # Nearly all is enough: see MAX_DIFFERENT.
  different = float(np.mean(np.asarray(ours()) != np.asarray(naive())))
  require(different <= MAX_DIFFERENT,
          f"C5: {different:.2%} of the values differ.")
  say(f"C5: {1 - different:.3%} of the values agree")
  times = measure.alternate(ours, naive, repeats=size.repeats)
  row = rows.timed_row("C5", times, items=batch_size, unit="images/s")
  rows.add_programs(row, ours.program, naive.program)
  rows.add_ceiling(row, measure.peak_flops(size.ceiling))
  yield row


def _draw_logits(shapes, batch_size, num_tokens):
  """Noise [B, N, K, P] per output."""
  logits = {}
  for index, (name, shape) in enumerate(shapes.items()):
    full_shape = (batch_size, num_tokens, *shape)
    # Jitted: eager, the numbers would exist twice.
    draw = jax.jit(jax.random.normal, static_argnums=1)
    logits[name] = draw(jax.random.key(index), full_shape)
  return logits


def _join_patches(maps, grid, patch):
  """Maps [B, N, P, 2] as images [B, H, W, 2], both square."""
  batch_size = len(maps)
  maps = maps.reshape(batch_size, grid, grid, patch, patch, 2)
  # Rows of patches, rows of pixels, columns of patches, columns of pixels.
  maps = maps.swapaxes(2, 3)
  return maps.reshape(batch_size, grid * patch, grid * patch, 2)
