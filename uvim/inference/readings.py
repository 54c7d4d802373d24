"""How an answer is read from what the prior says.

B batch · S samples · L code length · Q number of words · E size of a vector
H W pixels

A prior knows more than the words that it draws. Its options `soft_words` and
`soft_inputs` keep what it knows of each word (`uvim.priors.soft_words`), and a
task may read more than the likeliest bin (depth: `bins`). What is here works
for every prior: dropping words of which it is not sure, and making one answer
of several samples. All who predict read alike: `UViM.predict`, the command
line, the explorer, evaluators and the panels of a report.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from uvim import fields
from uvim.codes.base import CodeSpec
from uvim.models.guided import GuidedModel
from uvim.priors import base as priors_base
from uvim.priors.base import Samples
from uvim.registry import ConfigError
from uvim.tasks.base import AbstractTask
from uvim.typing import Array, Bool, Float, Int, PerExample, PyTree

# Outputs of a task by name, [B, H, W, …] each; "OfEach": [S, B, H, W, …].
Outputs = dict[str, Array]
OutputsOfEach = dict[str, Array]

LIKELIHOOD = "likelihood"
AGREEMENT = "agreement"
MEAN = "mean"
REDUCTIONS = (LIKELIHOOD, AGREEMENT, MEAN)

_OPTIONS = (
    fields.Field(
        "drop_below", None,
        "Drops words to which the prior gives less than this probability, so "
        "that f goes by the image there.",
        check=fields.optional(fields.number(0, 1.0))),
    fields.Field(
        "reduce", None,
        "Makes one answer of all samples: the likeliest, the one with which "
        "the others agree most, or the mean of real-valued outputs.",
        check=fields.optional(fields.one_of(REDUCTIONS))),
)
OPTIONS = {option.name: option for option in _OPTIONS}
# Of evaluators, which read one answer of each image. `UViM.predict` has it too,
# and may give all samples.
NUM_SAMPLES = fields.Field(
    "num_samples", 1, "How many samples of each image; with several, `reduce` "
    "makes one answer of them.", check=priors_base.NUM_SAMPLES)


class Answer(NamedTuple):
  """What several samples come down to.

  Attributes:
    outputs: name → [B, H, W, …].
    chosen: int [B], which sample it is; None: it is the mean of all.
  """
  outputs: Outputs
  chosen: Int[Array, "B"] | None


def check_options(given: Mapping[str, Any]) -> None:
  """Raises a ConfigError for a value out of its range; see OPTIONS."""
  fields.check_fields(OPTIONS, given, "options")


def check(
    options: Mapping[str, Any],
    *,
    task: AbstractTask,
    spec: CodeSpec,
    num_samples: int = 1,
    mask: str | int | None = None,
) -> None:
  """Raises a ConfigError for options that do not fit model, task or mask.

  Args:
    options: of a prediction; each has an allowed value.
    task: of the model.
    spec: of the codes.
    num_samples: S, where one answer is made of all.
    mask: what stands in place of some words, see `uvim.codes.masking`.
  """
  if num_samples > 1 and options.get("reduce") is None:
    raise ConfigError(f"num_samples = {num_samples}; with several samples, "
                      f"reduce must be one of {', '.join(REDUCTIONS)}.")
  if options.get("reduce") == MEAN and not task.has_mean:
    raise ConfigError(
        "reduce = 'mean'; classes and instances have no mean. It must be "
        "'likelihood' or 'agreement'.")
  for name in ("soft_words", "drop_below"):
    value = options.get(name)
    if value is None:
      continue
    if not spec.is_discrete:
      raise ConfigError(f"{name} = {value!r}; the codes of this model have no "
                        "words.")
    if mask not in (None, "zeros"):
      raise ConfigError(f"{name} = {value!r} with mask = {mask!r}; words that "
                        "are put in have no probability. With it, mask must be "
                        "None or 'zeros'.")
  if options.get("soft_words") is not None and spec.words_per_place > 1:
    raise ConfigError("soft_words: a place of this code has "
                      f"{spec.words_per_place} words; it must have one.")


# ── Before f ────────────────────────────────────────────────────────────────


def sampling_options(
    options: Mapping[str, Any],
    model: GuidedModel,
    arrays: PyTree,
) -> dict[str, Any]:
  """The options for `Prior.sample`, with what soft words need besides."""
  if options.get("soft_words") is None:
    return dict(options)
  words_1Q = jnp.arange(model.spec.num_words)[None]
  codewords_1QE = model.embed(arrays, words_1Q)
  return {**options, "codewords": codewords_1QE[0]}


def samples_to_read(samples: Samples, reduce: str | None) -> Samples:
  """The samples that f reads: all, or the likeliest if only it counts.

  Raises:
    ConfigError: nobody knows the likelihood.
  """
  if reduce != LIKELIHOOD:
    return samples
  if samples.logprob is None:
    raise ConfigError("reduce = 'likelihood'; this prior gives no "
                      "likelihoods.")
  # Each word is given those before it, so the logarithms add up.
  log_likelihood_BS = samples.logprob.sum(2)
  return choose(samples, log_likelihood_BS.argmax(1))


def choose(samples: Samples, chosen_B: Int[Array, "B"]) -> Samples:
  """One sample of each image, as S = 1."""
  images_B = np.arange(len(samples.code))

  def choose_of(x_BS):
    return x_BS[images_B, chosen_B][:, None]

  return jax.tree.map(choose_of, samples)


def unsure_words(
    samples: Samples,
    drop_below: float | None,
    given: Int[Any, "B L"] | None = None,
) -> Bool[Array, "B S L"] | None:
  """Which words are dropped; None: none.

  Args:
    samples: of the prior.
    drop_below: see OPTIONS.
    given: words that the user has fixed, -1 elsewhere; they stay.

  Raises:
    ConfigError: nobody knows the probabilities.
  """
  if drop_below is None:
    return None
  if samples.logprob is None:
    raise ConfigError(f"drop_below = {drop_below!r}; this prior gives no "
                      "probabilities.")
  is_unsure_BSL = jnp.exp(samples.logprob) < drop_below
  if given is not None:
    is_free_BL = jnp.asarray(given) < 0
    if is_free_BL.ndim == 3:
      # A place of several words is free if one of them is.
      is_free_BL = jnp.any(is_free_BL, axis=-1)
    is_unsure_BSL = is_unsure_BSL & is_free_BL[:, None]
  return is_unsure_BSL


def code_vectors(
    model: GuidedModel,
    arrays: PyTree,
    code: Array,
    vectors_BLE: Float[Array, "B L E"] | None,
    dropped_BL: Bool[Array, "B L"] | None,
) -> Float[Array, "B L E"]:
  """What f reads: the words' vectors or soft ones, without dropped places."""
  if vectors_BLE is None:
    return model.embed(arrays, code, dropped_BL)
  if dropped_BL is None:
    return vectors_BLE
  return model.drop(arrays, vectors_BLE, dropped_BL)


# ── After f ─────────────────────────────────────────────────────────────────


def outputs_of_each(
    outputs_of: Callable[[Any], Outputs],
    samples: PyTree,
) -> OutputsOfEach:
  """f's outputs for each sample.

  Args:
    outputs_of: makes those of one sample, a tree of [B, …].
    samples: a tree of [B, S, …].
  """
  by_sample = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), samples)
  num_samples = len(jax.tree.leaves(by_sample)[0])
  if num_samples == 1:
    outputs = outputs_of(jax.tree.map(lambda x: x[0], by_sample))
    return jax.tree.map(lambda x: x[None], outputs)
  # One by one: the logits of all would not fit into the memory.
  return lax.map(outputs_of, by_sample)


def reduce_samples(
    task: AbstractTask,
    outputs: OutputsOfEach,
    reduce: str | None,
) -> Answer:
  """One answer of all samples that f has read.

  Args:
    task: of the outputs.
    outputs: [S, B, H, W, …].
    reduce: one of REDUCTIONS; None: there is one sample.
  """
  if reduce == MEAN:
    return Answer(task.mean(outputs), None)
  num_samples, batch_size = jax.tree.leaves(outputs)[0].shape[:2]
  if num_samples == 1:
    first = {key: x[0] for key, x in outputs.items()}
    return Answer(first, jnp.zeros(batch_size, jnp.int32))
  chosen_B = jnp.argmax(agreement(task, outputs), axis=0)
  images_B = np.arange(batch_size)
  chosen = {key: x[chosen_B, images_B] for key, x in outputs.items()}
  return Answer(chosen, chosen_B)


def samples_of(answer: Answer, samples: Samples) -> Samples:
  """What an answer was made of: one sample, or all without a likelihood."""
  if answer.chosen is None:
    return samples.replace(logprob=None)
  return choose(samples, answer.chosen)


def agreement(
    task: AbstractTask, outputs: OutputsOfEach,
) -> Float[Array, "S B"]:
  """How much the others agree with each sample, see `AbstractTask.agreement`.

  The sample with the most is that of the least expected loss, if the truth is
  as likely to be one sample as another.
  """
  num_samples = len(jax.tree.leaves(outputs)[0])
  # Each pair once: agreement is symmetric.
  first_P, second_P = np.triu_indices(num_samples, 1)

  def of_pair(pair) -> PerExample:
    first, second = pair
    return task.agreement(
        jax.tree.map(lambda x: x[first], outputs),
        jax.tree.map(lambda x: x[second], outputs))

  agreement_PB = lax.map(of_pair, (first_P, second_P))
  sums_SB = jnp.zeros((num_samples, agreement_PB.shape[1]))
  sums_SB = sums_SB.at[first_P].add(agreement_PB)
  return sums_SB.at[second_P].add(agreement_PB)
