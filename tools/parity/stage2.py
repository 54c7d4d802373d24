"""Stage II fixtures through this code: forward, losses, gradients, decoding.

B images · S samples per image · L code length · V vocabulary (0 = start)
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tools.parity import common as parity_common
from tools.parity.common import Quantity, below, guarded, load, match
from trainers.lm import token_nll
from uvim import tree
from uvim.models import make_model
from uvim.priors import lm
from uvim.priors import sampling as decode
from uvim.registry import ConfigError

POSEMB = re.compile(r"posemb_sincos2d_(\d+)x(\d+)_(\d+)")


def model_fields(theirs: Mapping[str, Any]) -> dict[str, Any]:
  """Constructor fields of our `LM` from those of the original's model."""
  fields = dict(theirs)
  fields["autoregressive"] = not fields.pop("zero_decoder_seq", False)
  if rate := fields.pop("dropout_rate", 0):
    raise ConfigError(f"dropout_rate = {rate}: the paper's models have none.")
  return fields


def run(path, parts) -> Iterator[Quantity]:
  """Every quantity of one stage II fixture.

  Args:
    path: its json.
    parts: its .npz files by what follows its name: 'params', 'out', 'grad'.
  """
  meta = json.loads(path.read_text())
  model = make_model("lm", model_fields(meta["config"]), "config")
  if "params" not in parts:
    raise ConfigError(f"{path.stem}_params.npz is missing.")
  given = load(parts.pop("params"))
  params = tree.unflatten(below(given, "params/"))
  args = model, params, given["image"], given["text"]
  for part, file in parts.items():
    yield from guarded(file.stem, _part(part, file, args))


def _part(part, file, args) -> Iterator[Quantity]:
  """The quantities of one file."""
  if part == "out":
    yield from _outputs(file.stem, load(file), *args)
  elif part == "grad":
    yield from _training(file.stem, load(file), *args)
  else:
    yield from parity_common.unknown_part(file)


def _outputs(where, theirs, model, params, image, text) -> Iterator[Quantity]:
  ours = jax.jit(forward, static_argnums=0)(model, params, image, text)
  decoded = {name: _companions(name, theirs) for name, words in theirs.items()
             if words.dtype.kind == "i" and words.ndim == 3}
  rest = theirs.keys() - {name for some in decoded.values() for name in some}
  yield from match(where, {k: v for k, v in theirs.items() if k in rest},
                   ours | _posembs(theirs), inputs="prompts|eos_token")
  for name, some in decoded.items():
    yield from _sequences(where, name, some, theirs, (model, params, image))


def _training(where, theirs, model, params, image, text) -> Iterator[Quantity]:
  step = jax.jit(jax.value_and_grad(_loss, argnums=1), static_argnums=0)
  loss, grads = step(model, params, image, text)
  yield from match(where, theirs, {"loss": loss}, inputs="grad/.*")
  yield from parity_common.gradients(where, tree.flatten(grads), theirs)


def _loss(model, params, image, text):
  return jnp.mean(token_nll(model, params, image, text))


def forward(model, params, image, text) -> dict[str, Any]:
  """The teacher-forced pass, by the fixtures' names."""
  bound = model.bind({"params": params})
  encoded = bound.encode(image)
  nll_BL = token_nll(model, params, image, text)
  return {"encoded": encoded, "logits": bound.logits(encoded, text),
          "loss": jnp.mean(nll_BL), "loss_per_example": jnp.mean(nll_BL, 1),
          "loss_sum_per_example": jnp.sum(nll_BL, 1)}


def _posembs(names) -> dict[str, Any]:
  found = filter(None, map(POSEMB.fullmatch, names))
  return {m[0]: lm.sincos2d((int(m[1]), int(m[2])), int(m[3])) for m in found}


def _companions(name, theirs) -> dict[str, Any]:
  """Sequences, their log-probabilities and the sums of these, by name."""
  kind = name.removesuffix("_seqs")
  return {k: theirs[k] for k in (name, f"{kind}_logprobs", f"{kind}_scores")
          if k in theirs}


def _sequences(where, name, some, theirs, args) -> Iterator[Quantity]:
  """What was decoded in one way."""
  kind, words_BSL, note = name.removesuffix("_seqs"), theirs[name], ""
  ours_BSL, logprob_BSL = map(
      np.asarray, jax.jit(_after, static_argnums=0)(*args, words_BSL))
  if kind == "greedy":
    ours_BSL, logprob_BSL, note = _decode(
        *args, words_BSL, (ours_BSL, logprob_BSL))
  elif kind == "prompted" and "prompts" in theirs:
    prompt_BSL = theirs["prompts"][:, None]
    ours_BSL = np.where(prompt_BSL > 0, prompt_BSL, ours_BSL)
    note = "our decoder takes no prompt; by a full pass"
  elif kind == "eos":
    ours_BSL = logprob_BSL = None
    note = "we have no end token"
  else:
    ours_BSL, note = None, "another random stream; see its log-probabilities"
  ours = {name: ours_BSL, f"{kind}_logprobs": logprob_BSL}
  if logprob_BSL is not None:
    ours[f"{kind}_scores"] = logprob_BSL.sum(-1)
  yield from match(where, some, ours, note=note,
                   informative="" if kind == "greedy" else ".*")


def _after(model, params, image, words_BSL):
  """The likeliest word of all, and the log-probability of the one that came,
  each after the words before it: int32 and f32 [B, S, L]."""
  bound = model.bind({"params": params})
  encoded = jnp.repeat(bound.encode(image), words_BSL.shape[1], axis=0)
  logits = bound.logits(encoded, words_BSL.reshape(-1, words_BSL.shape[-1]))
  logits_BSLV = logits.reshape(*words_BSL.shape, -1)
  logprobs = jax.nn.log_softmax(logits_BSLV)
  picked = jnp.take_along_axis(logprobs, words_BSL[..., None], -1)[..., 0]
  return jnp.argmax(logits_BSLV, axis=-1).astype(jnp.int32), picked


def _decode(model, params, image, words_BSL, forced):
  """Our decoder's words and log-probabilities, and what to say of them.

  It never draws the start word, which the original does where that is
  likeliest: such sequences are those of a full pass over all words instead.
  """
  samples = decode.sample(model, params, image, np.arange(len(image)),
                          num_samples=words_BSL.shape[1])
  whole_BS1 = (words_BSL != 0).all(-1, keepdims=True)
  ours = [np.where(whole_BS1, a, b) for a, b in zip(
      (samples.code + 1, samples.logprob), forced, strict=True)]
  num_others = np.count_nonzero(~whole_BS1)
  return *ours, (f"{num_others} of {whole_BS1.size} hold the start word, which "
                 "we never draw: by a full pass" if num_others else "")
