"""Stage I on `rooms`, colorization.

Arguments: `tiny` (a few steps on a few scenes, for tests), `fid` (also scores
how far the predicted colours are from those of other scenes).
"""

from configs import common


def pp_strings(res):
  """Preprocessing at a resolution: (train, eval, predict, truth)."""
  load = f"decode|resize({res}, antialias=True)|"
  split = ('copy("image", "labels")|rgb_to_grayscale_to_rgb|'
           'value_range(-1, 1)|value_range(-1, 1, key="labels")|')
  flip = 'flip_lr|'
  keep = 'keep("image","labels")'
  return (load + flip + split + keep, load + split + keep,
          load + split + 'keep("image")', load + split + 'keep("labels")')


def options():
  """What the colours of a prediction are compared with."""
  return dict(pp_truth=pp_strings(common.ROOMS_RES)[-1])


def add_fid(config):
  """A Fréchet distance beside each PSNR, which a grey mean would win.

  Of the mean colours of quarters: Inception's weights come with no package.
  """
  size = 8 if config.dataset == "rooms/tiny" else 512
  for name, _ in list(config.evals):
    config.evals = [*config.evals, (f"{name}_fid", "coltran_fid")]
    config[f"{name}_fid"] = dict(
        {k: v for k, v in config[name].items() if k != "options"},
        options=dict(features="quadrants", reference_split=f"train[:{size}]"))


def get_config(arg=None):
  arg = common.parse_arg(arg, tiny=False, fid=False)
  *pp, _, _ = pp_strings(common.ROOMS_RES)
  config = common.rooms_stage_i(
      "tiny" if arg["tiny"] else None, "colorization", {"color": 3}, pp)
  common.add_rooms_stage_i_evals(config, "psnr", options=options())
  if arg["fid"]:
    add_fid(config)
  return config
