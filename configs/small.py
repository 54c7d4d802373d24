"""What configs of small data sets share; tools.make_config writes such configs.

Both stages may see the image with a frozen DINOv2-S, and every gap that can be
watched has its evaluators.
"""

import ml_collections as mlc

from configs import common

NO_ENCODER = "none"


def set_data(config, pp, *, dataset, data_dir, train_split, val_split):
  """The images to train on and those to score.

  Args:
    config: the ConfigDict to add to.
    pp: `common.Preprocessing`.
    dataset: TFDS name.
    data_dir: TFDS's root folder; None: its default.
    train_split: TFDS name of a split or a part of one.
    val_split: likewise.
  """
  common.set_data(config, dataset, pp)
  if data_dir is not None:
    config.data_dir = data_dir
  config.train_split = train_split
  config.val_split = val_split
  common.set_features(config)


def see_with_encoder(config, encoder, image_size):
  """Gives a model the frozen encoder, unless there is none.

  Args:
    config: of either stage, with its `model`.
    encoder: name, address or file of a DINOv2-S, or NO_ENCODER.
    image_size: height and width of the image that it sees.
  """
  if encoder == NO_ENCODER:
    return
  config.model.image_encoder = dict(
      family="dinov2", variant="S/14", input_size=image_size)
  config.model_init = {"image_encoder": encoder}
  # The augmentations of an image repeat after so many epochs, so that
  # tools.cache_features can keep the features of each.
  config.codes_per_image = 6


def set_optimizer(config, *, lr, warmup_steps):
  """Adam, with a cosine schedule and clipped gradients."""
  config.optax_name = "scale_by_adam"
  config.optax = dict(b2=0.99)
  config.lr = lr
  config.wd = 1e-4
  config.schedule = dict(decay_type="cosine", warmup_steps=warmup_steps)
  config.grad_clip_norm = 1.0


def set_oracle(config, stage_i_config):
  """The oracle of stage II, whose code is learned, and its vocabulary.

  Args:
    config: of stage II, with its `model`.
    stage_i_config: of its stage I.
  """
  common.set_codes(config)
  config.oracle = mlc.ConfigDict()
  config.oracle.task = stage_i_config.task
  config.oracle.task_options = stage_i_config.task_options
  config.oracle.model_init = "stage1"
  config.oracle.model_name = stage_i_config.model_name
  config.oracle.model = stage_i_config.model
  # References, which follow an override of the oracle. The vocabulary has one
  # more: the word 0 starts a text.
  config.model.vocab_size = config.oracle.model.get_ref("dict_size") + 1
  config.model.seq_len = config.oracle.model.get_ref("code_len")


def add_stage_i_evals(config, evaluator, pp, **fields):
  """Scores the oracle's code, and no code at all.

  Args:
    config: of stage I.
    evaluator: its type.
    pp: `common.Preprocessing`.
    **fields: further fields of every evaluator's block.
  """
  config.evals = []
  _add_eval(config, "oracle_code", evaluator, fields, pred="predict",
            pp=pp.eval)
  _add_eval(config, "zero_code", evaluator, fields, pred="zero_code",
            pp=pp.eval)


def add_stage_ii_evals(config, evaluator, pp, **fields):
  """Scores UViM, the oracle's code, and no code at all.

  UViM's code is read in three ways: its likeliest words, what f makes of their
  expected codewords (on few images the better answer), and a sample.

  Arguments as of `add_stage_i_evals`.
  """
  config.evals = []
  _add_eval(config, "uvim", evaluator, fields, pred="predict", pp=pp.predict,
            temperature=0.0, seed=0)
  _add_eval(config, "uvim_soft", evaluator, fields, pred="predict",
            pp=pp.predict, temperature=0.0, seed=0, soft_words=1.0)
  # No other prior has soft words, and an override may choose another.
  config.uvim_soft.only_style = "ar"
  _add_eval(config, "uvim_sampled", evaluator, fields, pred="predict",
            pp=pp.predict, temperature=1.0, seed=0)
  _add_eval(config, "oracle_code", evaluator, fields, pred="oracle",
            pp=pp.eval)
  _add_eval(config, "zero_code", evaluator, fields, pred="zero_code",
            pp=pp.predict)


def _add_eval(config, name, evaluator, fields, *, pred, pp, **sampling):
  """One evaluator; `sampling` are options of the prediction."""
  pred_kw = {**fields.get("pred_kw", {}), **sampling}
  config.evals = [*config.evals, (name, evaluator)]
  config[name] = dict(fields, pp=pp, pred=pred, pred_kw=pred_kw)
