"""Arguments of config files: `configs/name.py:runlocal,key=value`."""

import difflib

import ml_collections as mlc

ROOMS_RES = 48
ROOMS_PATCH = 8

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


def stage_i_switches():
  """What the listings leave out of `config.model`, as released (Table 2)."""
  return dict(code_dropout="random", bottleneck_resize=True, dict_learning=True,
              dict_splitting=True, commitment_weight=0.0, **speed_switches())


def stage_ii_switches():
  """The same for the language model; a size of None is the encoder's."""
  size = mlc.config_dict.placeholder
  return dict(autoregressive=True, decoder_layers=size(int),
              decoder_heads=size(int), decoder_mlp_dim=size(int),
              decoder_emb_dim=size(int), **speed_switches())


def speed_switches():
  """How a model computes what it computes; ours, of no listing."""
  return dict(dtype="float32", attention="chunked", scan_layers=False,
              remat="none")


def set_devices(config, sharding="replicate"):
  """One axis for all devices, and what a run does about bad steps and inputs.

  Args:
    config: the ConfigDict to add to.
    sharding: of all parameters. The large configs give "fsdp(data)": each
      device keeps 1/n of parameters and optimizer. On one device that is the
      whole, so they run there as they are.
  """
  config.mesh = (("data", -1),)
  config.sharding = ((".*", sharding),)
  config.grad_accum_steps = 1
  config.skip_bad_steps = 0
  config.on_bad_example = "error"


def set_codes(config):
  """Stage II asks its oracle for the code of every example it sees."""
  config.code_cache = mlc.config_dict.placeholder(str)
  config.codes_per_image = mlc.config_dict.placeholder(int)


def two_images(res, label_res):
  """What stage II sees: `image` at `res`, f's `image_ctx` at label size."""
  return (f'resize({label_res}, inkey="image", outkey="image_ctx")|'
          f'resize({res})|value_range(-1, 1, key="image_ctx")|'
          'value_range(-1, 1)|')


def rooms_stage_i(arg, task, labels, pp):
  """Stage I on `rooms`: the recipe of Appendix D at a size for two cores.

  Args:
    arg: of the config file: `tiny` (a few steps on a few scenes, for tests).
    task: name of the task.
    labels: name → classes of the model's inputs and outputs.
    pp: (train, eval) preprocessing strings.

  Returns:
    A config without evaluators; see `add_rooms_evals`.
  """
  arg = parse_arg(arg, tiny=False)
  config = mlc.ConfigDict()
  config.task = task
  _rooms_data(config, "rooms/tiny" if arg["tiny"] else "rooms")
  config.pp_train, config.pp_eval = pp
  # In trials of one length, batches of 8 left a lower loss than 16 or 32.
  config.batch_size = 8
  config.total_steps = 10_000
  config.log_eval_steps = 5000
  config.checkpoint_steps = 2500

  labels = {key: (classes, ROOMS_PATCH**2) for key, classes in labels.items()}
  config.model_name = "vit"
  config.model = dict(
      input_size=(ROOMS_RES, ROOMS_RES), patch_size=(ROOMS_PATCH, ROOMS_PATCH),
      code_len=36, width=128, oracle_depth=2, base_model_depth=4, mlp_dim=384,
      num_heads=4, dict_size=256, codeword_dim=32, dict_momentum=0.98,
      with_encoder_ctx=True, with_decoder_ctx=True,
      inputs=labels, outputs=labels, **stage_i_switches())
  _rooms_optimizer(config)
  if arg["tiny"]:
    _rooms_tiny(config)
    config.model.update(oracle_depth=1, base_model_depth=1, width=32,
                        mlp_dim=32, dict_size=16)
  return config


def rooms_stage_ii(stage_i, pp):
  """Stage II on `rooms`, for the code of a `rooms_stage_i` config.

  Args:
    stage_i: the stage I config.
    pp: (train, eval) preprocessing strings.

  Returns:
    A config without evaluators; see `add_rooms_evals`.
  """
  config = mlc.ConfigDict()
  _rooms_data(config, stage_i.dataset)
  config.pp_train, config.pp_eval = pp
  config.batch_size = 16
  config.total_steps = 2400
  config.log_eval_steps = 1200
  config.checkpoint_steps = 600

  set_codes(config)
  config.oracle = mlc.ConfigDict()
  config.oracle.task = stage_i.task
  config.oracle.model_init = "stage1"
  config.oracle.model_name = stage_i.model_name
  config.oracle.model = stage_i.model

  # `rooms` has no ImageNet-21k model to start from. The base model is a ViT
  # that knows the scenes, so the encoder starts from that.
  # `+ ""`: a reference that follows the oracle until it is set to "" itself.
  config.model_init = {"base_model": config.oracle.get_ref("model_init") + ""}
  config.model_name = "lm"
  config.model = dict(
      num_layers=4, num_heads=4, mlp_dim=384, emb_dim=128,
      patches=dict(size=(ROOMS_PATCH, ROOMS_PATCH)), posemb_type="learn",
      input_size=(ROOMS_RES, ROOMS_RES), **stage_ii_switches())
  config.model.vocab_size = config.oracle.model.get_ref("dict_size") + 1
  config.model.seq_len = config.oracle.model.get_ref("code_len")
  _rooms_optimizer(config)
  if stage_i.dataset == "rooms/tiny":
    _rooms_tiny(config)
    config.model.update(num_layers=1, emb_dim=32, mlp_dim=32)
  return config


def _rooms_data(config, dataset):
  config.dataset = dataset
  config.data_dir = mlc.config_dict.placeholder(str)
  config.seed = 0
  config.train_split = "train"
  config.val_split = "validation"
  config.log_training_steps = 200
  set_devices(config)


def _rooms_optimizer(config):
  config.optax_name = "scale_by_adam"
  config.optax = dict(b2=0.99)
  config.lr = 1.5e-3
  config.wd = 1e-4
  config.schedule = dict(decay_type="cosine", warmup_steps=200)
  config.grad_clip_norm = 1.0


def _rooms_tiny(config):
  """Shrinks a `rooms` config to a few seconds."""
  config.batch_size = 8
  config.total_steps = 4
  config.log_training_steps = 1
  config.log_eval_steps = config.checkpoint_steps = 2
  config.schedule.warmup_steps = 1


def add_rooms_evals(config, evaluator, preds, **fields):
  """One evaluator of unseen scenes per prediction function.

  Args:
    config: of `rooms_stage_i` or `rooms_stage_ii`.
    evaluator: its name.
    preds: name → (prediction function, preprocessing).
    **fields: further fields of every evaluator's block.
  """
  fields = dict(fields, split="validation", log_steps=config.log_eval_steps)
  if config.dataset == "rooms/tiny":
    fields.update(split="validation[:8]", log_steps=config.total_steps)
  config.evals = [(name, evaluator) for name in preds]
  for name, (pred, pp) in preds.items():
    config[name] = dict(fields, pp=pp, pred=pred)


def add_rooms_stage_i_evals(config, evaluator, **fields):
  """Scores the oracle's code, and no code at all."""
  add_rooms_evals(config, evaluator, {
      "oracle_code": ("predict", config.pp_eval),
      "zero_code": ("zero_code", config.pp_eval)}, **fields)


def add_rooms_stage_ii_evals(config, evaluator, pp_predict, **fields):
  """Scores UViM at T = 0, the oracle's code, and no code at all."""
  add_rooms_evals(config, evaluator, {
      "uvim": ("predict", pp_predict),
      "oracle_code": ("oracle", config.pp_eval),
      "zero_code": ("zero_code", pp_predict)}, **fields)
  config.uvim.pred_kw = dict(config.uvim.get("pred_kw", {}),
                             temperature=0.0, seed=0)
