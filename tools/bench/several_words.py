"""Measures several words a pass of the language model against one word a pass.

  python -m tools.bench.several_words [--checkpoint WORKDIR] [--words 4 8]
      [--batch 1 8] [--steps 400]

Noise cannot show this: nobody can guess its words. So the model is that of a
run of stage II on `rooms`. Without --checkpoint a small one first learns a code
that scenes of `rooms` have by themselves, how bright each patch is. A draft
then learns to guess: that of the small model beside it; for a checkpoint, from
codes that its model draws.

The report has a line for each batch size, temperature, guesser and number of
words. `words a pass` is the mean over images; `seconds` are medians, of one
word a pass and of several, run in turns. The images are none of those that were
learned from. The exit status is 1 if more than 1 % of the words differ, which
rounding does not explain.

B images · L code length · Q number of words
"""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from tools.bench import measure
from tools.bench.measure import say
from uvim.cli import app
from uvim.models import make_model
from uvim.priors.autoregressive import AutoregressivePrior
from uvim.priors.draft import NAME
from uvim.registry import ConfigError
from uvim.typing import PyTree

# Streams of scenes; no split of `rooms` has them.
_LEARNED_SCENES = 1001
_MEASURED_SCENES = 1002
_NUM_LEARNED = 256
# Codes that a model draws of an image, for a draft to learn from.
_CODES_PER_IMAGE = 4
_BATCH_SIZE = 32
_LEARNING_RATE = 2e-3
_DRAFT_WIDTH = 64

_NUM_LEVELS = 32
_PATCH = 8
_SMALL = dict(
    num_layers=3, num_heads=4, mlp_dim=256, emb_dim=96,
    patches={"size": (_PATCH, _PATCH)}, input_size=(48, 48), seq_len=36,
    vocab_size=_NUM_LEVELS + 1)

# The largest share of words that may differ: near ties, and what follows them.
_MAX_DIFFERENT = 0.01
_REPEATS = 7

_COLUMNS = ("batch", "T", "guesses", "words", "words a pass", "seconds",
            "faster", "same words")


@dataclasses.dataclass(frozen=True)
class Model:
  """A prior with a draft, and its parameters."""
  prior: AutoregressivePrior
  params: PyTree


# ── The model ───────────────────────────────────────────────────────────────


def draw_scenes(stream: int, num_images: int, size: Sequence[int]) -> Any:
  """Images of `rooms`, float32 [B, H, W, 3] in [-1, 1]."""
  from pp.rooms import render
  height, width = size
  images = []
  for index in range(num_images):
    scene = render.render(stream, index)
    image = scene["image"].astype(np.float32) / 127.5 - 1
    # As the recipes of `rooms` resize.
    images.append(jax.image.resize(
        image, (height, width, 3), "linear", antialias=True))
  return jnp.stack(images)


def brightness_code(image: Any) -> Any:
  """How bright each patch is, int32 [B, L] in 0..Q-1."""
  gray_BHW = jnp.mean(image, axis=-1)
  batch_size, height, width = gray_BHW.shape
  patches = gray_BHW.reshape(
      batch_size, height // _PATCH, _PATCH, width // _PATCH, _PATCH)
  mean_BL = jnp.mean(patches, axis=(2, 4)).reshape(batch_size, -1)
  # From [-1, 1] to levels.
  level_BL = (mean_BL + 1) / 2 * _NUM_LEVELS
  return jnp.clip(level_BL.astype(jnp.int32), 0, _NUM_LEVELS - 1)


def small_model(num_steps: int) -> Model:
  """A model that has learned the brightness of patches, with its draft."""
  prior = make_model("lm", {**_SMALL, "draft": _DRAFT_WIDTH}, "model")
  image = draw_scenes(_LEARNED_SCENES, _NUM_LEARNED, prior.input_size)
  params = prior.init(jax.random.key(0))
  params = _learn(prior, {}, params, image, brightness_code(image), num_steps)
  return Model(prior, params)


def model_of(checkpoint: str, num_steps: int) -> Model:
  """The language model of a run, with a draft that learns to guess its words.

  Raises:
    ConfigError: not a run on `rooms` whose model draws word by word.
  """
  from uvim.store import open_model
  opened = open_model.open_model(checkpoint)
  prior = opened.prior
  draws_words = isinstance(prior, AutoregressivePrior)
  if not draws_words or not prior.lm.autoregressive:
    raise ConfigError(f"--checkpoint {checkpoint}: must be a run of stage II "
                      "with model.style = 'ar' and autoregressive = True.")
  if not opened.dataset.startswith("rooms"):
    raise ConfigError(f"--checkpoint {checkpoint} learned from "
                      f"{opened.dataset or 'nobody knows what'}; it must be a "
                      "run on rooms.")
  params = jax.device_put(opened.prior_params)
  if prior.draft is not None:
    return Model(prior, params)
  prior = _with_fields(prior, draft=_DRAFT_WIDTH)
  draft_params = prior.init(jax.random.key(0))[NAME]
  image = draw_scenes(_LEARNED_SCENES, _NUM_LEARNED, prior.input_size)
  samples = prior.sample(
      params, image, np.arange(_NUM_LEARNED), temperature=1.0,
      num_samples=_CODES_PER_IMAGE)
  code = samples.code.reshape(-1, *samples.code.shape[2:])
  image = jnp.repeat(image, _CODES_PER_IMAGE, axis=0)
  learned = _learn(
      prior, params, {NAME: draft_params}, image, code, num_steps)
  return Model(prior, {**params, **learned})


def _with_fields(prior, **fields):
  """The prior with other fields of `SeveralWords`."""
  several = dataclasses.replace(prior.several_words, **fields)
  return dataclasses.replace(prior, several_words=several)


def _learn(prior, fixed, params, image, code, num_steps):
  """These parameters after some steps of Adam.

  Args:
    prior: whose loss they lower.
    fixed: the prior's other parameters.
    params: those that learn.
    image: [B, H, W, 3], all that there are.
    code: their codes.
    num_steps: how many.
  """
  schedule = optax.cosine_decay_schedule(_LEARNING_RATE, num_steps)
  optimizer = optax.adam(schedule)

  def mean_loss(params, indices):
    loss_B, logs = prior.loss(
        {**fixed, **params}, image[indices], code[indices])
    mean_draft_nll = jnp.mean(logs["draft_nll"])
    return jnp.mean(loss_B), mean_draft_nll

  def step(carry, rng):
    params, state = carry
    indices = jax.random.choice(rng, len(code), (_BATCH_SIZE,))
    losses, gradient = jax.value_and_grad(
        mean_loss, has_aux=True)(params, indices)
    updates, state = optimizer.update(gradient, state)
    return (optax.apply_updates(params, updates), state), losses

  @jax.jit
  def learn(params):
    rngs = jax.random.split(jax.random.key(1), num_steps)
    carry = (params, optimizer.init(params))
    return lax.scan(step, carry, rngs)

  (params, _), losses = learn(params)
  loss, draft_loss = (float(values[-1]) for values in losses)
  say(f"{num_steps} steps: {loss:.2f} nats a word, draft {draft_loss:.2f}")
  return params


# ── The report ──────────────────────────────────────────────────────────────


def compare(
    model: Model,
    image: Any,
    temperature: float,
    all_num_words: Sequence[int],
) -> Iterator[dict[str, Any]]:
  """A row of the report for each guesser and number of words.

  Args:
    model: with a draft.
    image: [B, H, W, 3].
    temperature: of the samples.
    all_num_words: what to measure, each ≥ 2.
  """
  variants = {}
  for draft in (None, model.prior.several_words.draft):
    guesses = "last pass" if draft is None else "draft"
    for num_words in all_num_words:
      variants[guesses, num_words] = _sampler(
          model, image, temperature, words_per_pass=num_words, draft=draft)
  one = _sampler(model, image, temperature, words_per_pass=1)
  code = np.asarray(one().code)
  drawn = {key: run() for key, run in variants.items()}
  times = measure.alternate(
      one, *variants.values(), repeats=_REPEATS, budget_s=60)
  seconds_one = times[0].median
  length = model.prior.lm.seq_len
  for key, times_of_variant in zip(variants, times[1:], strict=True):
    guesses, num_words = key
    samples = drawn[key]
    seconds = times_of_variant.median
    yield {
        "batch": len(image),
        "T": temperature,
        "guesses": guesses,
        "words": num_words,
        "words a pass": np.mean(length / samples.passes),
        "seconds": f"{seconds_one:.4f} → {seconds:.4f}",
        "faster": seconds_one / seconds,
        "same words": np.mean(samples.code == code),
    }


def _sampler(model, image, temperature, **fields):
  """A function that draws one code of each image and waits for it."""
  prior = _with_fields(model.prior, **fields)
  seeds_B = np.arange(len(image))
  draw = jax.jit(functools.partial(prior.sample, temperature=temperature))

  def run():
    return jax.block_until_ready(draw(model.params, image, seeds_B))

  return run


def markdown(rows: Sequence[dict[str, Any]]) -> str:
  """The report as a table."""
  lines = [_line(_COLUMNS), _line(["---"] * len(_COLUMNS))]
  for row in rows:
    cells = []
    for name in _COLUMNS:
      value = row[name]
      is_fraction = isinstance(value, (float, np.floating))
      cells.append(f"{value:.3g}" if is_fraction else str(value))
    lines.append(_line(cells))
  return "\n".join(lines)


def _line(cells):
  return f"| {' | '.join(cells)} |"


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns the exit code."""
  parser = app.make_parser("tools.bench.several_words", __doc__)
  add = parser.add_argument
  add("--checkpoint", help="the workdir of a stage II run on rooms")
  add("--words", type=int, nargs="+", default=[4, 8],
      help="how many words a pass tries (default 4 8)")
  add("--batch", type=int, nargs="+", default=[1, 8],
      help="how many images at once (default 1 8)")
  add("--steps", type=int, default=400,
      help="of what learns here (default 400)")
  return app.run(parser, _measure, argv)


def _measure(args: argparse.Namespace) -> int:
  """Prints the report; returns the exit code."""
  _check(args)
  if args.checkpoint:
    model = model_of(args.checkpoint, args.steps)
  else:
    model = small_model(args.steps)
  image = draw_scenes(
      _MEASURED_SCENES, max(args.batch), model.prior.input_size)
  rows = []
  for batch_size in args.batch:
    for temperature in (0.0, 1.0):
      rows += compare(model, image[:batch_size], temperature, args.words)
  print(markdown(rows))
  worst = min(row["same words"] for row in rows)
  return int(worst < 1 - _MAX_DIFFERENT)


def _check(args):
  """Raises a ConfigError for numbers that cannot be measured."""
  for name, least in (("words", 2), ("batch", 1)):
    for value in getattr(args, name):
      if value < least:
        raise ConfigError(f"--{name} {value}; must be at least {least}.")
  if args.steps < 1:
    raise ConfigError(f"--steps {args.steps}; must be at least 1.")


if __name__ == "__main__":
  sys.exit(main())
