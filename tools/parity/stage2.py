"""Stage II fixtures through this code: forward, losses, gradients, decoding.

B images · S samples per image · L code length · V vocabulary (0 = start)
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tools.parity import fixtures
from tools.parity.common import Quantity, below, match, match_gradients
from tools.parity.fixtures import Fixture
from uvim import tree
from uvim.models import make_model
from uvim.nn import positions
from uvim.priors.autoregressive import AutoregressivePrior
from uvim.registry import ConfigError

# Rows, columns and width of a fixed position embedding.
POSEMB = re.compile(r"posemb_sincos2d_(\d+)x(\d+)_(\d+)")


@dataclasses.dataclass(frozen=True)
class Case:
  """What a stage II fixture gives.

  Attributes:
    prior: the model.
    params: its parameters.
    image: [B, H, W, 3] in [-1, 1].
    text_BL: the words, which are code + 1.
  """
  prior: AutoregressivePrior
  params: dict[str, Any]
  image: np.ndarray
  text_BL: np.ndarray


def compare(fixture: Fixture) -> Iterator[Quantity]:
  """Every quantity of one stage II fixture."""
  prior = make_prior(fixture.read_meta()["config"])
  given = fixture.read_part(fixtures.PARAMS)
  params = tree.unflatten(below(given, "params/"))
  case = Case(prior, params, given["image"], given["text"])
  compare_part = functools.partial(_compare_part, case)
  yield from fixtures.compare_parts(fixture, fixtures.PARAMS, compare_part)


def _compare_part(case: Case, part: str,
                  path: pathlib.Path) -> Iterator[Quantity]:
  """The quantities of one file."""
  if part == "out":
    yield from _compare_outputs(case, path.stem, fixtures.read_arrays(path))
  elif part == "grad":
    yield from _compare_training(case, path.stem, fixtures.read_arrays(path))
  else:
    yield from fixtures.compare_unknown_part(path)


# ── The model of a fixture ──────────────────────────────────────────────────


def make_prior(theirs: Mapping[str, Any]) -> AutoregressivePrior:
  """Our prior from the fields of the original's model."""
  fields = dict(theirs)
  is_one_pass = fields.pop("zero_decoder_seq", False)
  dropout_rate = fields.pop("dropout_rate", 0)
  if dropout_rate:
    raise ConfigError(
        f"dropout_rate = {dropout_rate}: the paper's models have none.")
  fields["autoregressive"] = not is_one_pass
  return make_model("lm", fields, "config")


def forward(prior: AutoregressivePrior, params, image,
            text_BL) -> dict[str, jax.Array]:
  """The teacher-forced pass, by the fixtures' names."""
  network = prior.lm.bind({"params": params})
  encoded_BND = network.encode(image)
  nll_BL = prior.word_nll(params, image, text_BL - 1)
  return {
      "encoded": encoded_BND,
      "logits": network.logits(encoded_BND, text_BL),
      "loss": jnp.mean(nll_BL),
      "loss_per_example": jnp.mean(nll_BL, axis=1),
      "loss_sum_per_example": jnp.sum(nll_BL, axis=1),
  }


def _mean_nll(prior, params, image, text_BL):
  return jnp.mean(prior.word_nll(params, image, text_BL - 1))


# ── Files ───────────────────────────────────────────────────────────────────


def _compare_training(case: Case, file: str, theirs) -> Iterator[Quantity]:
  """The loss and its gradients."""
  step = jax.jit(jax.value_and_grad(_mean_nll, argnums=1), static_argnums=0)
  loss, grads = step(case.prior, case.params, case.image, case.text_BL)
  yield from match(file, theirs, {"loss": loss}, inputs=["grad/*"])
  yield from match_gradients(file, tree.flatten(grads), theirs)


def _compare_outputs(case: Case, file: str, theirs) -> Iterator[Quantity]:
  """What the network computes, then what was decoded in each way."""
  decoded = {}
  rest = dict(theirs)
  for name, words in theirs.items():
    # Sequences are the only integers [B, S, L].
    if words.dtype.kind == "i" and words.ndim == 3:
      decoded[name] = _with_companions(name, theirs)
      for companion in decoded[name]:
        rest.pop(companion, None)
  run_forward = jax.jit(forward, static_argnums=0)
  ours = run_forward(case.prior, case.params, case.image, case.text_BL)
  yield from match(file, rest, ours | _position_embeddings(rest),
                   inputs=["prompts", "eos_token"])
  for name, arrays in decoded.items():
    yield from _compare_sequences(
        case, file, name, arrays, theirs.get("prompts"))


def _position_embeddings(names: Iterable[str]) -> dict[str, jax.Array]:
  """The fixed embeddings that are asked for, by their names."""
  embeddings = {}
  for name in names:
    sizes = POSEMB.fullmatch(name)
    if sizes:
      rows, columns, width = map(int, sizes.groups())
      embeddings[name] = positions.sincos2d((rows, columns), width)
  return embeddings


def _way_of(name: str) -> str:
  """How sequences of this name were decoded: 'greedy', 'prompted', …."""
  return name.removesuffix("_seqs")


def _with_companions(name: str, theirs) -> dict[str, np.ndarray]:
  """Sequences, their log-probabilities and the sums of these, by name."""
  way = _way_of(name)
  names = (name, f"{way}_logprobs", f"{way}_scores")
  return {key: theirs[key] for key in names if key in theirs}


def _compare_sequences(case: Case, file: str, name: str, theirs,
                       prompts_BL: np.ndarray | None) -> Iterator[Quantity]:
  """What was decoded in one way."""
  way = _way_of(name)
  words_BSL = theirs[name]
  likeliest_BSL, logprob_BSL = _score_words(case, words_BSL)
  if way == "greedy":
    words, logprob, note = _decode_greedily(
        case, words_BSL, likeliest_BSL, logprob_BSL)
  elif way == "prompted" and prompts_BL is not None:
    prompts_BSL = prompts_BL[:, None]
    words = np.where(prompts_BSL > 0, prompts_BSL, likeliest_BSL)
    logprob = logprob_BSL
    note = "not decoded with the prompt; by a full pass"
  elif way == "eos":
    words = None
    logprob = None
    note = "we have no end token"
  else:
    words = None
    logprob = logprob_BSL
    note = "another random stream; see its log-probabilities"
  ours = {name: words, f"{way}_logprobs": logprob}
  if logprob is not None:
    ours[f"{way}_scores"] = logprob.sum(axis=-1)
  informative = [] if way == "greedy" else ["*"]
  yield from match(file, theirs, ours, informative=informative, note=note)


def _score_words(case: Case,
                 words_BSL: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The likeliest word at each place, and the log-probability of the given.

  Both by a full pass, in which each word knows the given ones before it; int32
  and float32 [B, S, L].
  """
  scores = jax.jit(_score_in_full_pass, static_argnums=0)(
      case.prior.lm, case.params, case.image, words_BSL)
  return jax.device_get(scores)


def _score_in_full_pass(network, params, image, words_BSL):
  num_samples, length = words_BSL.shape[1:]
  network = network.bind({"params": params})
  encoded = jnp.repeat(network.encode(image), num_samples, axis=0)
  logits = network.logits(encoded, words_BSL.reshape(-1, length))
  logits_BSLV = logits.reshape(*words_BSL.shape, -1)
  logprobs_BSLV = jax.nn.log_softmax(logits_BSLV)
  picked_BSL1 = jnp.take_along_axis(
      logprobs_BSLV, words_BSL[..., None], axis=-1)
  likeliest_BSL = jnp.argmax(logits_BSLV, axis=-1).astype(jnp.int32)
  return likeliest_BSL, picked_BSL1[..., 0]


def _decode_greedily(case: Case, words_BSL, likeliest_BSL, logprob_BSL):
  """Our decoder's words and log-probabilities, and what to say of them.

  It never draws the start word, which the original does where that is
  likeliest: such sequences are those of a full pass over all words instead.
  """
  samples = case.prior.sample(
      case.params, case.image, np.arange(len(case.image)),
      num_samples=words_BSL.shape[1])
  is_whole_BS1 = (words_BSL != 0).all(axis=-1, keepdims=True)
  words = np.where(is_whole_BS1, samples.code + 1, likeliest_BSL)
  logprob = np.where(is_whole_BS1, samples.logprob, logprob_BSL)
  num_others = np.count_nonzero(~is_whole_BS1)
  note = ""
  if num_others:
    note = (f"{num_others} of {is_whole_BS1.size} hold the start word, which "
            "we never draw: by a full pass")
  return words, logprob, note
