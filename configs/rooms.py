"""What the configs of `rooms` share: the recipe of Appendix D for two cores."""

import math

import ml_collections as mlc

from configs import common, quantizers

# 6 × 6 patches, one for each of the 36 words of the code.
RES = 48
PATCH = 8
TINY = "rooms/tiny"
# Harder scenes, of 64 × 64 pixels: 8 × 8 patches and as many words.
HARD = "rooms/hard"
HARD_TINY = "rooms/hard_tiny"
HARD_RES = 64


def side_of(hard):
  """Pixels on a side of the images that a model of `rooms` takes."""
  return HARD_RES if hard else RES


def _dataset_of(tiny, hard):
  if hard:
    return HARD_TINY if tiny else HARD
  return TINY if tiny else "rooms"


def stage_i(task, classes, pp, tiny=False, hard=False):
  """Stage I on `rooms`.

  Args:
    task: name of the task.
    classes: as of `set_labels`.
    pp: `Preprocessing`.
    tiny: a few steps on a few scenes, for tests.
    hard: the scenes of `rooms/hard`.

  Returns:
    A config without evaluators; see `add_stage_i_evals`.
  """
  config = mlc.ConfigDict()
  config.task = task
  common.set_data(config, _dataset_of(tiny, hard), pp)
  config.log_training_steps = 200
  common.set_features(config)
  # In trials of one length, batches of 8 left a lower loss than 16 or 32.
  config.batch_size = 8
  config.total_steps = 10_000
  config.log_eval_steps = 5000
  config.checkpoint_steps = 2500

  # A short run: `dict_momentum` forgets faster than the 0.995 of Appendix D, so
  # that dead words are noticed in time.
  config.model_name = "vit"
  side = side_of(hard)
  config.model = dict(
      input_size=(side, side), patch_size=(PATCH, PATCH),
      # A word for each patch.
      code_len=(side // PATCH) ** 2,
      width=128, oracle_depth=2, base_model_depth=4, mlp_dim=384, num_heads=4,
      dict_size=256, codeword_dim=32, dict_momentum=0.98,
      with_encoder_ctx=True, with_decoder_ctx=True, **common.stage_i_switches())
  common.set_labels(config.model, classes)
  set_optimizer(config)
  if tiny:
    shrink(config)
    config.model.update(oracle_depth=1, base_model_depth=1, width=32,
                        mlp_dim=32, dict_size=16)
  return config


def stage_ii(stage_i_config, pp):
  """Stage II on `rooms`, for the code of a `stage_i` config.

  Args:
    stage_i_config: the stage I config. If it is tiny, so is the new one.
    pp: `Preprocessing`.

  Returns:
    A config without evaluators; see `add_stage_ii_evals`.
  """
  config = mlc.ConfigDict()
  common.set_data(config, stage_i_config.dataset, pp)
  config.log_training_steps = 200
  config.batch_size = 16
  config.total_steps = 2400
  config.log_eval_steps = 1200
  config.checkpoint_steps = 600
  common.set_codes(config)
  _set_oracle(config, stage_i_config)

  config.model_name = "lm"
  config.model = dict(
      num_layers=4, num_heads=4, mlp_dim=384, emb_dim=128,
      patches=dict(size=(PATCH, PATCH)), posemb_type="learn",
      input_size=stage_i_config.model.input_size, **common.stage_ii_switches())
  quantizers.set_words(config)
  set_optimizer(config)
  if is_tiny(config):
    shrink(config)
    config.model.update(num_layers=1, emb_dim=32, mlp_dim=32)
  return config


def use_masked_words(config):
  """Lets a stage II model of `rooms` predict many words at once, as MaskGIT.

  Args:
    config: of `stage_ii`, with its evaluators.
  """
  config.model.update(
      style="masked", mask_scheduling_method="cosine", min_masking_rate=0.5,
      label_smoothing=0.1)
  oracle = config.oracle.model
  if oracle.bottleneck == "resize":
    # The model is told where each word lies. Else it learns to guess words from
    # those beside them, and has hardly begun to read the image when it ends.
    config.model.code_grid = (math.isqrt(oracle.code_len),) * 2
  # Without chance: as at temperature 0, the score must not depend on the seed.
  config.uvim.pred_kw.update(num_iter=12, choice_temperature=0.0)


def see_with(config, workdir):
  """Lets a model of `rooms` see with the encoder of a configs/mae_rooms.py run.

  Args:
    config: of `stage_i` or `stage_ii`.
    workdir: of that run.
  """
  tiny = is_tiny(config)
  config.model.image_encoder = dict(
      family="augreg", input_size=config.model.input_size,
      patch_size=(PATCH, PATCH), depth=1 if tiny else 4,
      width=32 if tiny else 128, mlp_dim=32 if tiny else 384, num_heads=4,
      frozen=True, beside=False)
  # In place of "base_model": a base model may see the image otherwise.
  config.model_init = {"image_encoder": workdir}


def is_tiny(config):
  """Whether this is a `tiny` config, for tests."""
  return config.dataset in (TINY, HARD_TINY)


def _set_oracle(config, stage_i_config):
  """The oracle, and the encoder that starts as its base model."""
  config.oracle = mlc.ConfigDict()
  config.oracle.task = stage_i_config.task
  config.oracle.model_init = "stage1"
  config.oracle.model_name = stage_i_config.model_name
  config.oracle.model = stage_i_config.model
  # `rooms` has no ImageNet-21k model to start from. The base model is a ViT
  # that knows the scenes, so the encoder starts from that.
  # `+ ""` makes a reference that follows the oracle until somebody sets it.
  config.model_init = {"base_model": config.oracle.get_ref("model_init") + ""}


def set_optimizer(config):
  """Adam, with a cosine schedule and clipped gradients."""
  config.optax_name = "scale_by_adam"
  config.optax = dict(b2=0.99)
  config.lr = 1.5e-3
  config.wd = 1e-4
  config.schedule = dict(decay_type="cosine", warmup_steps=200)
  config.grad_clip_norm = 1.0


def shrink(config):
  """Makes a `rooms` config last a few seconds."""
  config.batch_size = 8
  config.total_steps = 4
  config.log_training_steps = 1
  config.log_eval_steps = 2
  config.checkpoint_steps = 2
  config.schedule.warmup_steps = 1


def add_stage_i_evals(config, evaluator, **fields):
  """Scores the oracle's code, and no code at all.

  Args:
    config: of `stage_i`.
    evaluator: its type.
    **fields: further fields of every evaluator's block.
  """
  config.evals = []
  _add_eval(config, "oracle_code", evaluator, fields, pred="predict",
            pp=config.pp_eval)
  _add_eval(config, "zero_code", evaluator, fields, pred="zero_code",
            pp=config.pp_eval)


def add_stage_ii_evals(config, evaluator, pp_predict, **fields):
  """Scores UViM at T = 0, the oracle's code, and no code at all.

  Args:
    config: of `stage_ii`.
    evaluator: its type.
    pp_predict: preprocessing that keeps the image alone.
    **fields: further fields of every evaluator's block.
  """
  config.evals = []
  _add_eval(config, "uvim", evaluator, fields, pred="predict",
            pp=pp_predict)
  _add_eval(config, "oracle_code", evaluator, fields, pred="oracle",
            pp=config.pp_eval)
  _add_eval(config, "zero_code", evaluator, fields, pred="zero_code",
            pp=pp_predict)
  # At temperature 0 the likeliest word, or vector, is taken, so that the score
  # does not depend on the seed.
  temperature = "temp" if config.model.style == "givt" else "temperature"
  config.uvim.pred_kw = dict(config.uvim.get("pred_kw", {}), seed=0)
  config.uvim.pred_kw[temperature] = 0.0


def _add_eval(config, name, evaluator, fields, *, pred, pp):
  """One evaluator of unseen scenes."""
  # A tiny run scores a few scenes once, at its end.
  split = "validation"
  log_steps = config.log_eval_steps
  if is_tiny(config):
    split = "validation[:8]"
    log_steps = config.total_steps
  config.evals = [*config.evals, (name, evaluator)]
  config[name] = dict(
      fields, split=split, log_steps=log_steps, pp=pp, pred=pred)
