"""Stage I on `rooms`, panoptic segmentation.

Arguments: `tiny` (a few steps on a few scenes, for tests).
"""

from configs import common

# Paper: objects under 0.1 % of the picture are dropped.
PRED_KW = dict(min_fraction=0.001)


def pp_strings(res):
  """Preprocessing at a resolution: (train, eval, predict)."""
  image = f'resize({res}, antialias=True)|value_range(-1, 1)|'
  labels = (f'resize({res}, key="labels", method="nearest")|make_canonical|'
            'keep("image","labels")')
  return (common.LOAD + common.FLIP + image + labels,
          common.LOAD + image + labels, f'decode|{image}keep("image")')


def get_config(arg=None):
  *pp, _ = pp_strings(common.ROOMS_RES)
  # 12 categories and void; at most 8 things and 5 kinds of stuff a scene.
  labels = {"semantics": 12 + 1, "instances": 16}
  config = common.rooms_stage_i(arg, "panoptic_segmentation", labels, pp)
  common.add_rooms_stage_i_evals(config, "coco_panoptic", pred_kw=PRED_KW)
  return config
