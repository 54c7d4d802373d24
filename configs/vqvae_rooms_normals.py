"""Stage I on `rooms`, surface normals.

Arguments: `tiny` (a few steps on a few scenes, for tests).
"""

from configs import common, rooms

CLASSES = {"normals": 3}  # x, y, z per pixel.


def pp_strings(res):
  """Preprocessing at a resolution."""
  image = f"resize({res}, antialias=True)|value_range(-1, 1)|"
  # "nearest" keeps unit vectors; a mean of two would be shorter.
  labels = (f'resize({res}, key="labels", method="nearest")|'
            'keep("image","labels")')
  load = "decode|rooms_normals|"
  # A mirrored scene has mirrored normals, not only normals elsewhere.
  flip = common.FLIP + "mirror_normals|"
  return common.Preprocessing(
      train=load + flip + image + labels,
      eval=load + image + labels,
      predict=f'decode|{image}keep("image")')


def get_config(arg=None):
  args = common.parse_arg(arg, tiny=False)
  config = rooms.stage_i(
      "normals", CLASSES, pp_strings(rooms.RES), tiny=args.tiny)
  rooms.add_stage_i_evals(config, "normals")
  return config
