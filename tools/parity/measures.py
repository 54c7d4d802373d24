"""Small fixtures through this code: panoptic outputs, and what evaluators do.

B batch · H W pixels · K classes · P pixels in a patch · C channels
"""

import re
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from tools.parity import fixtures
from tools.parity.common import Quantity, match
from tools.parity.fixtures import Fixture
from uvim import resize
from uvim.tasks import base, panoptic

_FRACTION = "out/min_fraction="
# Height and width that the small image is resized to.
_RESIZED = re.compile(r"resize_nearest_(\d+)x(\d+)")


def compare_panoptic(fixture: Fixture) -> Iterator[Quantity]:
  """Two-channel outputs from logits per pixel."""
  theirs = fixtures.read_arrays(fixture.path)
  # One patch is the whole image: [B, H, W, K] becomes [B, 1, K, H·W].
  size = theirs[panoptic.KEYS[0]].shape[1:3]
  logits = {}
  for key in panoptic.KEYS:
    patches_B1PK = base.patchify(theirs[key], size)
    logits[key] = jnp.asarray(patches_B1PK.swapaxes(2, 3))
  ours = {}
  for name in theirs:
    if name.startswith(_FRACTION):
      out_B1PC = panoptic.panoptic_from_logits(
          logits["semantics"], logits["instances"],
          min_fraction=float(name.removeprefix(_FRACTION)))
      ours[name] = base.unpatchify(out_B1PC, size, size)
  yield from match(fixture.name, theirs, ours, inputs=panoptic.KEYS)


def compare_metrics(fixture: Fixture) -> Iterator[Quantity]:
  """Depth measures, nearest resize and PSNR of small arrays."""
  # Evaluators import TensorFlow.
  from evaluators import nyu_depth, psnr
  theirs = fixtures.read_arrays(fixture.path)
  ours = {}
  if "depth_gt" in theirs:
    measures = nyu_depth.depth_image(
        theirs["depth_gt"], theirs["depth_pred"]).result()
    ours |= {name: np.float64(value) for name, value in measures.items()}
  if "psnr_label" in theirs:
    pairs = zip(theirs["psnr_label"], theirs["psnr_pred"], strict=True)
    ours["psnr"] = np.array(
        [psnr.psnr_image(label, output) for label, output in pairs])
  for name in theirs:
    found = _RESIZED.fullmatch(name)
    if found:
      size = (int(found[1]), int(found[2]))
      ours[name] = resize.resize_nearest(theirs["resize_in"], size)
  yield from match(
      fixture.name, theirs, ours,
      inputs=["depth_gt", "depth_pred", "psnr_label", "psnr_pred",
              "resize_in"])
