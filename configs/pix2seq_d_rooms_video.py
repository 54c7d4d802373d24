"""Pix2Seq-D on clips of `rooms`: things keep their ids from frame to frame.

It sees the masks of the two frames before, and starts from a run on images:

  --config configs/pix2seq_d_rooms_video.py --config.model_init=WORKDIR

where WORKDIR is of configs/pix2seq_d_rooms_panoptic.py. Without it, it starts
from nothing, which takes as many steps as images do.

Arguments: `tiny` (a few steps on a few frames, for tests).
"""

import ml_collections as mlc

from configs import common, pix2seq_d_rooms_panoptic, rooms
from configs import vqvae_rooms_panoptic as panoptic

CLIPS = "rooms/clips"
TINY_CLIPS = "rooms/clips_tiny"


def pp_strings(res, mask_res):
  """Preprocessing for images and masks of these sides."""
  load = "decode|clip_panoptic|"
  flip = common.FLIP + 'det_fliplr(key="labels_before")|'
  image = f'resize({res}, antialias=True)|value_range(-1, 1)|'
  # Without make_canonical: it would give the ids of each frame anew.
  labels = (f'resize({mask_res}, key="labels", method="nearest")|'
            f'resize({mask_res}, key="labels_before", method="nearest")|'
            'keep("image","labels","labels_before")')
  return common.Preprocessing(
      train=load + flip + image + labels, eval=load + image + labels,
      predict=f'{load}{image}keep("image","clip/id","clip/frame")')


def get_config(arg=None):
  args = common.parse_arg(arg, tiny=False)
  config = pix2seq_d_rooms_panoptic.get_config("tiny" if args.tiny else None)
  pp = pp_strings(rooms.RES, pix2seq_d_rooms_panoptic.MASK_RES)
  config.dataset = TINY_CLIPS if args.tiny else CLIPS
  config.pp_train = pp.train
  config.pp_eval = pp.eval
  config.model.update(frames_before=2, frame_dropout=0.2, ema_decay=0.99)
  config.model_init = mlc.config_dict.placeholder(str)
  common.drop_evals(config)
  if not args.tiny:
    # It has learned to segment already: shorter, and at a third of the rate.
    config.total_steps = 3000
    config.log_eval_steps = 3000
    config.lr = 5e-4
  _add_evals(config, pp, args.tiny)
  return config


def _add_evals(config, pp, tiny):
  """Scores clips, and for comparison each frame as an image of its own."""
  num_steps, later_steps = 20, 5
  if tiny:
    num_steps, later_steps = 2, 1
  common_fields = dict(
      split="validation", log_steps=config.total_steps, pp=pp.predict)
  options = dict(
      panoptic.PRED_KW, num_steps=num_steps, time_difference=1.0, seed=0)
  config.evals = [
      ("clips", "davis"), ("clips_stq", "stq"), ("frames", "davis")]
  for name in ("clips", "clips_stq"):
    config[name] = dict(
        common_fields, pred="video", prefix=f"{name}/",
        pred_kw=dict(options, later_steps=later_steps))
  config.frames = dict(
      common_fields, pred="predict", prefix="frames/", pred_kw=options)
