"""What several config files share: arguments, evaluators, small variants.

A config file is `configs/NAME.py[:flag,key=value…]`; what stands behind the
colon is read by `parse_arg`.
"""

import dataclasses
import difflib
import types
from typing import NamedTuple

import ml_collections as mlc

# Appendix D holds the first 4096 training images out. It scores as many of
# those that it trains on, to compare.
TRAIN_SPLIT = "train[4096:]"
HOLDOUT_SPLIT = "train[:4096]"
SCORED_TRAIN_SPLIT = "train[4096:8192]"

# Pieces of the preprocessing strings of Appendix D.
LOAD = 'decode|coco_panoptic|concat(["semantics","instances"], "labels")|'
# Image and labels read one random number, so both are mirrored or neither.
FLIP = ('randu("fliplr")|'
        'det_fliplr(key="image")|det_fliplr(key="labels")|')
CROP = 'inception_box|crop_box(key="image")|crop_box(key="labels")|'

# 6 × 6 patches, one for each of the 36 words of the code.
ROOMS_RES = 48
ROOMS_PATCH = 8
TINY_ROOMS = "rooms/tiny"


class Preprocessing(NamedTuple):
  """The preprocessing strings of a config.

  Attributes:
    train: with augmentation.
    eval: without augmentation; keeps the labels.
    predict: as `eval`, but keeps the image alone. "" where no evaluator uses
      it.
  """
  train: str
  eval: str
  predict: str = ""


# ── Arguments ───────────────────────────────────────────────────────────────


def parse_arg(arg, **defaults):
  """Reads `flag,key=value,…` against named defaults.

  Args:
    arg: the text after the colon, or None.
    **defaults: every argument the config knows with its default. The type of
      the default is the type of the argument; a bare name sets a bool to True.

  Returns:
    A namespace with an attribute for each of `defaults`.

  Raises:
    ValueError: an unknown name, or a value of another type.
  """
  values = dict(defaults)
  for item in (arg or "").split(","):
    if not item:
      continue
    name, equals, text = item.partition("=")
    if name not in defaults:
      near = difflib.get_close_matches(name, defaults, 1)
      hint = f" Did you mean {near[0]!r}?" if near else ""
      raise ValueError(f"Unknown config argument {name!r}.{hint} "
                       f"Known: {', '.join(defaults)}.")
    if not equals:
      text = "true"
    # The default says which type the text must have.
    values[name] = _cast(name, text, defaults[name])
  return types.SimpleNamespace(**values)


def _cast(name, text, default):
  """The text as a value of the type of `default`."""
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


# ── Parts of the recipes of Appendix D ──────────────────────────────────────


def set_labels(model, classes):
  """What the oracle reads and the base model predicts.

  Args:
    model: a `config.model` of stage I that has its `patch_size`.
    classes: name of a quantity → its number of classes, bins or channels.
  """
  height, width = model.patch_size
  model.inputs = mlc.ConfigDict()
  # A patch of labels becomes one token: the classes of each of its pixels.
  for name, num_classes in classes.items():
    model.inputs[name] = (num_classes, height * width)
  # One object: an override of `inputs` changes both.
  model.outputs = model.inputs


def stage_i_switches():
  """What the listings leave out of `config.model`, as released (Table 2)."""
  return dict(code_dropout="random", bottleneck_resize=True, dict_learning=True,
              dict_splitting=True, commitment_weight=0.0, **speed_switches())


def stage_ii_switches():
  """What the listings leave out for the language model.

  A size of None is that of the encoder.
  """
  size = mlc.config_dict.placeholder
  return dict(autoregressive=True, backbone="vit", encoder_style="augreg",
              decoder_layers=size(int),
              decoder_heads=size(int), decoder_mlp_dim=size(int),
              decoder_emb_dim=size(int), **speed_switches())


def speed_switches():
  """Switches of speed and memory alone. The listings have none of these."""
  return dict(dtype="float32", attention="chunked", scan_layers=False,
              remat="none")


def set_devices(config, sharding="replicate"):
  """One mesh axis for all devices, and what to do about mishaps.

  Args:
    config: the ConfigDict to add to.
    sharding: the rule for all parameters. The large configs set "fsdp(data)":
      each device keeps 1/n of parameters and optimizer. On one device that is
      the whole, so they also run there.
  """
  # −1 stands for as many devices as there are.
  config.mesh = (("data", -1),)
  config.sharding = ((".*", sharding),)
  config.grad_accum_steps = 1
  config.skip_bad_steps = 0
  config.on_bad_example = "error"
  config.on_other_data = "error"


def set_codes(config):
  """Stage II asks its oracle for the code of every example it sees."""
  config.code_cache = mlc.config_dict.placeholder(str)
  set_features(config)


def set_features(config):
  """An image encoder, if there is one, runs in every step."""
  config.feature_cache = mlc.config_dict.placeholder(str)
  config.codes_per_image = mlc.config_dict.placeholder(int)


def two_images(res, label_res):
  """What stage II sees: `image` at `res`, f's `image_ctx` at label size."""
  # `image_ctx` first: `resize` replaces `image`.
  return (f'resize({label_res}, inkey="image", outkey="image_ctx")|'
          f'resize({res})|value_range(-1, 1, key="image_ctx")|'
          'value_range(-1, 1)|')


def add_panoptic_evals(config, pp):
  """The three evaluators that both listings of Appendix D have.

  Args:
    config: the ConfigDict to add to.
    pp: preprocessing of the evaluated examples.
  """
  config.evals = [
      ("panoptic_train", "coco_panoptic"),
      ("panoptic_holdout", "coco_panoptic"),
      ("panoptic_val", "coco_panoptic"),
  ]
  _add_panoptic_eval(
      config, "panoptic_train", pp, SCORED_TRAIN_SPLIT, "coco_panoptic_train/")
  _add_panoptic_eval(
      config, "panoptic_holdout", pp, HOLDOUT_SPLIT, "coco_panoptic_holdout/")
  _add_panoptic_eval(
      config, "panoptic_val", pp, "validation", "coco_panoptic/")


def _add_panoptic_eval(config, name, pp, split, prefix):
  """The block of one evaluator of panoptic segmentation."""
  config[name] = dict(
      pp=pp, log_steps=10_000, prefix=prefix, split=split,
      # The paper drops objects under 0.1 % of the image, the released configs
      # drop none. The released value is the default.
      pred_kw=dict(min_fraction=0.0))


def drop_evals(config, keep=None):
  """Takes all evaluators but `keep` out of a config."""
  # The block of an evaluator goes together with its entry in `evals`.
  kept = []
  for name, evaluator in config.evals:
    if name == keep:
      kept.append((name, evaluator))
    else:
      del config[name]
  config.evals = kept


# ── `singlehost` and `runlocal` ─────────────────────────────────────────────


def single_host(config, num_epochs):
  """`singlehost`: a batch that fits into one host, and fewer epochs."""
  is_stage_ii = "oracle" in config
  config.batch_size = 32 if is_stage_ii else 128
  config.num_epochs = num_epochs


@dataclasses.dataclass(frozen=True)
class Local:
  """Sizes of a `runlocal` config: a small model that overfits, on a CPU.

  Attributes:
    evaluator: the evaluator that stays.
    batch_size: as many examples as the split has.
    total_steps: of stage I. Stage II takes half as many.
    res: height and width of images and labels.
    patch: height and width of a patch of stage I.
  """
  evaluator: str
  batch_size: int
  total_steps: int
  res: int = 128
  patch: int = 8


def run_local_stage_i(config, split, local, pp):
  """`runlocal`: a small model that overfits a few images.

  Args:
    config: a config of stage I.
    split: the images.
    local: the sizes.
    pp: `Preprocessing` at `local.res`. Training takes `pp.eval` too: an image
      that changes is harder to overfit.
  """
  _overfit(config, split, local, local.total_steps)
  config.pp_train = pp.eval
  config.pp_eval = pp.eval
  config[local.evaluator].pp = pp.eval
  _shrink_stage_i(config.model, local)


def run_local_stage_ii(config, split, local, pp):
  """`runlocal` for stage II, on the oracle of the `runlocal` stage I config."""
  _overfit(config, split, local, local.total_steps // 2)
  config.pp_train = pp.eval
  config.pp_eval = pp.eval
  config[local.evaluator].pp = pp.predict
  _shrink_stage_i(config.oracle.model, local)
  config.model.update(
      num_layers=2, num_heads=4, mlp_dim=512, emb_dim=192,
      input_size=(local.res, local.res), patches=dict(size=(16, 16)))
  # No pretrained encoder has this size.
  config.model_init = None
  config.lr_mults = []


def _overfit(config, split, local, total_steps):
  """Trains on a handful of images, and evaluates on the same."""
  config.train_split = split
  config.val_split = split
  config.batch_size = local.batch_size
  # A config gives epochs or steps, never both.
  del config.num_epochs
  config.total_steps = total_steps
  drop_evals(config, keep=local.evaluator)
  config[local.evaluator].split = split
  config[local.evaluator].log_steps = total_steps // 4
  config.log_training_steps = 10
  config.log_eval_steps = total_steps // 4
  config.checkpoint_steps = 100
  config.optax_name = "scale_by_adam"
  config.optax = dict()
  config.lr = 1e-3
  config.schedule = dict(decay_type="cosine", warmup_steps=50)


def _shrink_stage_i(model, local):
  """The stage I model of the `runlocal` configs."""
  # The second number is that of pixels in a patch, which changes below.
  classes = {name: num_classes
             for name, (num_classes, _) in model.inputs.items()}
  model.update(
      input_size=(local.res, local.res), patch_size=(local.patch, local.patch),
      code_len=256, width=192, oracle_depth=1, base_model_depth=3, mlp_dim=512,
      num_heads=3, dict_size=256, codeword_dim=32)
  # The patches have fewer pixels now.
  set_labels(model, classes)


# ── `rooms`: the recipe of Appendix D at a size for two cores ───────────────


def rooms_stage_i(task, classes, pp, tiny=False):
  """Stage I on `rooms`.

  Args:
    task: name of the task.
    classes: as of `set_labels`.
    pp: `Preprocessing`.
    tiny: a few steps on a few scenes, for tests.

  Returns:
    A config without evaluators; see `add_rooms_stage_i_evals`.
  """
  config = mlc.ConfigDict()
  config.task = task
  set_rooms_data(config, TINY_ROOMS if tiny else "rooms", pp)
  set_features(config)
  # In trials of one length, batches of 8 left a lower loss than 16 or 32.
  config.batch_size = 8
  config.total_steps = 10_000
  config.log_eval_steps = 5000
  config.checkpoint_steps = 2500

  # A short run: `dict_momentum` forgets faster than the 0.995 of Appendix D, so
  # that dead words are noticed in time.
  config.model_name = "vit"
  config.model = dict(
      input_size=(ROOMS_RES, ROOMS_RES), patch_size=(ROOMS_PATCH, ROOMS_PATCH),
      code_len=36, width=128, oracle_depth=2, base_model_depth=4, mlp_dim=384,
      num_heads=4, dict_size=256, codeword_dim=32, dict_momentum=0.98,
      with_encoder_ctx=True, with_decoder_ctx=True, **stage_i_switches())
  set_labels(config.model, classes)
  set_rooms_optimizer(config)
  if tiny:
    shrink_rooms(config)
    config.model.update(oracle_depth=1, base_model_depth=1, width=32,
                        mlp_dim=32, dict_size=16)
  return config


def rooms_stage_ii(stage_i, pp):
  """Stage II on `rooms`, for the code of a `rooms_stage_i` config.

  Args:
    stage_i: the stage I config. If it is tiny, so is the new one.
    pp: `Preprocessing`.

  Returns:
    A config without evaluators; see `add_rooms_stage_ii_evals`.
  """
  config = mlc.ConfigDict()
  set_rooms_data(config, stage_i.dataset, pp)
  config.batch_size = 16
  config.total_steps = 2400
  config.log_eval_steps = 1200
  config.checkpoint_steps = 600
  set_codes(config)
  _set_rooms_oracle(config, stage_i)

  config.model_name = "lm"
  config.model = dict(
      num_layers=4, num_heads=4, mlp_dim=384, emb_dim=128,
      patches=dict(size=(ROOMS_PATCH, ROOMS_PATCH)), posemb_type="learn",
      input_size=(ROOMS_RES, ROOMS_RES), **stage_ii_switches())
  # References, which follow an override of the oracle. The vocabulary has one
  # more: the word 0 starts a text.
  config.model.vocab_size = config.oracle.model.get_ref("dict_size") + 1
  config.model.seq_len = config.oracle.model.get_ref("code_len")
  set_rooms_optimizer(config)
  if is_tiny_rooms(config):
    shrink_rooms(config)
    config.model.update(num_layers=1, emb_dim=32, mlp_dim=32)
  return config


def see_rooms_with(config, workdir):
  """Lets a model of `rooms` see with the encoder of a configs/mae_rooms.py run.

  Args:
    config: of `rooms_stage_i` or `rooms_stage_ii`.
    workdir: of that run.
  """
  tiny = is_tiny_rooms(config)
  config.model.image_encoder = dict(
      family="augreg", input_size=(ROOMS_RES, ROOMS_RES),
      patch_size=(ROOMS_PATCH, ROOMS_PATCH), depth=1 if tiny else 4,
      width=32 if tiny else 128, mlp_dim=32 if tiny else 384, num_heads=4,
      frozen=True, beside=False)
  # In place of "base_model": a base model may see the image otherwise.
  config.model_init = {"image_encoder": workdir}


def is_tiny_rooms(config):
  """Whether this is a `tiny` config, for tests."""
  return config.dataset == TINY_ROOMS


def _set_rooms_oracle(config, stage_i):
  """The oracle, and the encoder that starts as its base model."""
  config.oracle = mlc.ConfigDict()
  config.oracle.task = stage_i.task
  config.oracle.model_init = "stage1"
  config.oracle.model_name = stage_i.model_name
  config.oracle.model = stage_i.model
  # `rooms` has no ImageNet-21k model to start from. The base model is a ViT
  # that knows the scenes, so the encoder starts from that.
  # `+ ""` makes a reference that follows the oracle until somebody sets it.
  config.model_init = {"base_model": config.oracle.get_ref("model_init") + ""}


def set_rooms_data(config, dataset, pp):
  """The data set, its splits and its preprocessing."""
  config.dataset = dataset
  config.data_dir = mlc.config_dict.placeholder(str)
  config.seed = 0
  config.train_split = "train"
  config.val_split = "validation"
  config.pp_train = pp.train
  config.pp_eval = pp.eval
  config.log_training_steps = 200
  set_devices(config)


def set_rooms_optimizer(config):
  """Adam, with a cosine schedule and clipped gradients."""
  config.optax_name = "scale_by_adam"
  config.optax = dict(b2=0.99)
  config.lr = 1.5e-3
  config.wd = 1e-4
  config.schedule = dict(decay_type="cosine", warmup_steps=200)
  config.grad_clip_norm = 1.0


def shrink_rooms(config):
  """Makes a `rooms` config last a few seconds."""
  config.batch_size = 8
  config.total_steps = 4
  config.log_training_steps = 1
  config.log_eval_steps = 2
  config.checkpoint_steps = 2
  config.schedule.warmup_steps = 1


def add_rooms_stage_i_evals(config, evaluator, **fields):
  """Scores the oracle's code, and no code at all.

  Args:
    config: of `rooms_stage_i`.
    evaluator: its type.
    **fields: further fields of every evaluator's block.
  """
  config.evals = []
  _add_rooms_eval(config, "oracle_code", evaluator, fields, pred="predict",
                  pp=config.pp_eval)
  _add_rooms_eval(config, "zero_code", evaluator, fields, pred="zero_code",
                  pp=config.pp_eval)


def add_rooms_stage_ii_evals(config, evaluator, pp_predict, **fields):
  """Scores UViM at T = 0, the oracle's code, and no code at all.

  Args:
    config: of `rooms_stage_ii`.
    evaluator: its type.
    pp_predict: preprocessing that keeps the image alone.
    **fields: further fields of every evaluator's block.
  """
  config.evals = []
  _add_rooms_eval(config, "uvim", evaluator, fields, pred="predict",
                  pp=pp_predict)
  _add_rooms_eval(config, "oracle_code", evaluator, fields, pred="oracle",
                  pp=config.pp_eval)
  _add_rooms_eval(config, "zero_code", evaluator, fields, pred="zero_code",
                  pp=pp_predict)
  # At temperature 0 the likeliest word is taken, so that the score does not
  # depend on the seed.
  sampling = dict(temperature=0.0, seed=0)
  config.uvim.pred_kw = dict(config.uvim.get("pred_kw", {}), **sampling)


def _add_rooms_eval(config, name, evaluator, fields, *, pred, pp):
  """One evaluator of unseen scenes."""
  # A tiny run scores a few scenes once, at its end.
  split = "validation"
  log_steps = config.log_eval_steps
  if is_tiny_rooms(config):
    split = "validation[:8]"
    log_steps = config.total_steps
  config.evals = [*config.evals, (name, evaluator)]
  config[name] = dict(
      fields, split=split, log_steps=log_steps, pp=pp, pred=pred)
