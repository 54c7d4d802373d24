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


# No ValueError: ml_collections would make another of its text, without `known`.
class UnknownArgument(LookupError):
  """An argument that a config does not know.

  Attributes:
    known: the arguments that the config knows: name → default. `--help` of the
      trainers lists them from here.
  """

  def __init__(self, name, known):
    near = difflib.get_close_matches(name, known, 1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    super().__init__(f"Unknown config argument {name!r}.{hint} "
                     f"Known: {', '.join(known)}.")
    self.known = known


def parse_arg(arg, **defaults):
  """Reads `flag,key=value,…` against named defaults.

  Args:
    arg: the text after the colon, or None.
    **defaults: every argument the config knows with its default. The type of
      the default is the type of the argument; a bare name sets a bool to True.

  Returns:
    A namespace with an attribute for each of `defaults`.

  Raises:
    UnknownArgument: an unknown name.
    ValueError: a value of another type.
  """
  values = dict(defaults)
  for item in (arg or "").split(","):
    if not item:
      continue
    name, equals, text = item.partition("=")
    if name not in defaults:
      raise UnknownArgument(name, defaults)
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


def check_choice(name, value, choices):
  """Raises a ValueError for an argument that is none of the choices."""
  if value not in choices:
    raise ValueError(f"Config argument {name}={value!r} must be one of "
                     f"{', '.join(choices)}.")


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
  return dict(code_dropout="random", bottleneck="resize",
              code_grid=mlc.config_dict.placeholder(tuple), dict_learning=True,
              dict_splitting=True, commitment_weight=0.0, **speed_switches())


def stage_ii_switches():
  """What the listings leave out for the language model.

  A size of None is that of the encoder. Without a `code_grid`, the decoder
  learns from data where each word lies.
  """
  size = mlc.config_dict.placeholder
  return dict(style="ar", autoregressive=True, backbone="vit",
              encoder_style="augreg", code_grid=size(tuple),
              decoder_layers=size(int),
              decoder_heads=size(int), decoder_mlp_dim=size(int),
              decoder_emb_dim=size(int), **speed_switches())


def speed_switches():
  """Switches of speed and memory alone. The listings have none of these."""
  return dict(dtype="float32", attention="chunked", scan_layers=False,
              remat="none")


def set_data(config, dataset, pp):
  """A small data set with the splits `train` and `validation`.

  Args:
    config: the ConfigDict to add to.
    dataset: its name.
    pp: `Preprocessing`.
  """
  config.dataset = dataset
  config.data_dir = mlc.config_dict.placeholder(str)
  config.seed = 0
  config.train_split = "train"
  config.val_split = "validation"
  config.pp_train = pp.train
  config.pp_eval = pp.eval
  set_devices(config)


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
