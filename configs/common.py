"""Arguments of config files: `configs/name.py:runlocal,key=value`."""

import difflib

# Pieces of the preprocessing strings of Appendix D.
LOAD = 'decode|coco_panoptic|concat(["semantics","instances"], "labels")|'
FLIP = ('randu("fliplr")|'
        'det_fliplr(key="image")|det_fliplr(key="labels")|')
CROP = 'inception_box|crop_box(key="image")|crop_box(key="labels")|'


def parse_arg(arg, **defaults):
  """Reads `flag,key=value,…` against named defaults.

  Args:
    arg: the text after the colon, or None.
    **defaults: every argument the config knows with its default. The type of
      the default is the type of the argument; a bare name sets a bool to True.

  Returns:
    A dict with the keys of `defaults`.

  Raises:
    ValueError: an unknown name, or a value of another type.
  """
  values = dict(defaults)
  for item in filter(None, (arg or "").split(",")):
    name, equals, text = item.partition("=")
    if name not in defaults:
      near = difflib.get_close_matches(name, defaults, 1)
      hint = f" Did you mean {near[0]!r}?" if near else ""
      raise ValueError(f"Unknown config argument {name!r}.{hint} "
                       f"Known: {', '.join(defaults)}.")
    values[name] = _cast(name, text if equals else "true", defaults[name])
  return values


def _cast(name, text, default):
  if isinstance(default, bool):
    if text.lower() not in ("true", "false", "1", "0"):
      raise ValueError(f"Config argument {name}={text!r} must be true or "
                       "false.")
    return text.lower() in ("true", "1")
  try:
    return type(default)(text)
  except ValueError as e:
    raise ValueError(f"Config argument {name}={text!r} must be of type "
                     f"{type(default).__name__}.") from e


def add_panoptic_evals(config, pp):
  """The three evaluators both listings of Appendix D share.

  Args:
    config: the ConfigDict to add to.
    pp: preprocessing of the evaluated examples.
  """
  config.evals = [
      ("panoptic_train", "coco_panoptic"),
      ("panoptic_holdout", "coco_panoptic"),
      ("panoptic_val", "coco_panoptic"),
  ]
  splits = {
      "panoptic_train": ("coco_panoptic_train/", "train[4096:8192]"),
      "panoptic_holdout": ("coco_panoptic_holdout/", "train[:4096]"),
      "panoptic_val": ("coco_panoptic/", "validation"),
  }
  for name, (prefix, split) in splits.items():
    config[name] = dict(
        pp=pp, log_steps=10_000, prefix=prefix, split=split,
        # The paper drops objects under 0.1 % of the picture, the released
        # configs drop none: the released figure is the default.
        pred_kw=dict(min_fraction=0.0))


def drop_evals(config, keep=None):
  """Takes all evaluators but `keep` out of a config."""
  for name, _ in config.evals:
    if name != keep:
      del config[name]
  config.evals = [pair for pair in config.evals if pair[0] == keep]


def overfit(config, split, *, evaluator, batch_size, total_steps):
  """Turns a config into one that learns a handful of pictures by heart."""
  config.train_split = config.val_split = split
  config.batch_size = batch_size
  del config.num_epochs
  config.total_steps = total_steps
  drop_evals(config, keep=evaluator)
  config[evaluator].split = split
  config[evaluator].log_steps = max(1, total_steps // 4)
  config.log_training_steps = 10
  config.log_eval_steps = total_steps // 4
  config.checkpoint_steps = 100
  config.optax_name = "scale_by_adam"
  config.optax = dict()
  config.lr = 1e-3
  config.schedule = dict(decay_type="cosine", warmup_steps=50)


def small_stage_i(res, patch):
  """Sizes of the stage I model of the `:runlocal` configs."""
  return dict(
      input_size=(res, res), patch_size=(patch, patch), code_len=256, width=192,
      oracle_depth=1, base_model_depth=3, mlp_dim=512, num_heads=3,
      dict_size=256, codeword_dim=32)


def small_stage_ii(res):
  """Sizes of the language model of the `:runlocal` configs."""
  return dict(num_layers=2, num_heads=4, mlp_dim=512, emb_dim=192,
              input_size=(res, res), patches=dict(size=(16, 16)))


def two_images(res, label_res):
  """What stage II sees: `image` at `res`, f's `image_ctx` at label size."""
  return (f'resize({label_res}, inkey="image", outkey="image_ctx")|'
          f'resize({res})|value_range(-1, 1, key="image_ctx")|'
          'value_range(-1, 1)|')


def rooms_pp(res):
  """Preprocessing of `rooms` at one resolution: (train, eval, predict)."""
  # Flips only. Whether crops help at this budget has not been measured apart
  # from other changes.
  image = f'resize({res}, antialias=True)|value_range(-1, 1)|'
  labels = (f'resize({res}, key="labels", method="nearest")|make_canonical|'
            'keep("image","labels")')
  return (LOAD + FLIP + image + labels, LOAD + image + labels,
          f'decode|{image}keep("image")')


def rooms_stage_i(res, patch, num_classes, num_instances):
  """The stage I model of the `rooms` configs."""
  labels = {"semantics": (num_classes, patch**2),
            "instances": (num_instances, patch**2)}
  return dict(
      input_size=(res, res), patch_size=(patch, patch), code_len=64,
      width=128, oracle_depth=2, base_model_depth=4, mlp_dim=384, num_heads=4,
      dict_size=64, codeword_dim=32, dict_momentum=0.99,
      with_encoder_ctx=True, with_decoder_ctx=True,
      inputs=labels, outputs=labels)


def rooms_tiny(config):
  """Shrinks a `rooms` config to a few seconds."""
  config.batch_size = 8
  config.total_steps = 4
  config.log_training_steps = 1
  config.log_eval_steps = config.checkpoint_steps = 2
  config.schedule.warmup_steps = 1
  for name, _ in config.evals:
    config[name].split = "validation[:8]"
    config[name].log_steps = 4
