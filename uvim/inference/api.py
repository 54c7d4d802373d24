"""UViM for inference: from a checkpoint to predictions, without TensorFlow.

  uvim = UViM.from_checkpoint("workdirs/quickstart/stage2")
  prediction = uvim.predict("photo.jpg", temperature=1.0, num_samples=4)
  prediction.plot().save("look.png")

n images · S samples per image · L code length · H W pixels of a picture

Images go through the models one by one, so a list gives the same as each
alone; and the random numbers of a sample follow from the pixels that the
language model sees and the seed, not from the image's place in a list.
"""

import functools
import inspect
import math
import os
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uvim.codes import vq as quantizer
from uvim.codes.vq import Codebook
from uvim.inference import images as images_lib
from uvim.inference.prediction import Prediction
from uvim.models import vit
from uvim.priors import sampling as decode
from uvim.registry import ConfigError, unknown
from uvim.store import open_model as load
from uvim.tasks.base import AbstractTask
from uvim.typing import Bool, Float, Int

NO_WORD = -1  # In a code: a zero vector instead of a word.


class UViM:
  """A trained base model with its oracle and, if there is one, its LM.

  Attributes:
    task: turns logits into outputs, and outputs into pictures.
    model: stage I.
    lm: stage II, or None.
    antialias: whether photographs are resized with antialias.
    dataset: what the run learned from; "" where nobody knows.
  """

  def __init__(self, task: AbstractTask, model, params, codebook: Codebook,
               lm=None, lm_params=None, *, antialias: bool = False,
               dataset: str = ""):
    self.task, self.model, self.lm = task, model, lm
    self.antialias, self.dataset = antialias, dataset
    self._stage_i = jax.device_put({"params": params, "codebook": codebook})
    self._lm_params = jax.device_put(lm_params)

  @classmethod
  def from_checkpoint(cls, path: str | os.PathLike, *,
                      lm: str | os.PathLike | None = None,
                      code_len: int | None = None,
                      task_options: Mapping[str, Any] | None = None) -> "UViM":
    """Loads a model.

    Args:
      path: the workdir of a run of either stage; a `.npz` of stage I; gs:// or
        https://; or the name of published weights: 'uvim-panoptic',
        'uvim-depth', 'uvim-color' load both stages.
      lm: stage II, where `path` is stage I alone.
      code_len: of a stage I `.npz` without `lm`; 256 in the published ones.
      task_options: of the task (depth: its range); a workdir knows its own.

    Raises:
      ConfigError: nothing there, not a UViM checkpoint, stages that do not
        fit each other.
    """
    parts = load.load(path, lm=lm, code_len=code_len,
                      task_options=task_options)
    return cls(parts.task, parts.model, parts.params, parts.codebook, parts.lm,
               parts.lm_params, antialias=parts.antialias,
               dataset=parts.dataset)

  @property
  def grid(self) -> tuple[int, int] | None:
    """Rows and columns of the code; None if its words have no places."""
    side = math.isqrt(self.model.code_len)
    return (side, side) if self.model.bottleneck_resize else None

  def predict(self, images: Any, *, temperature: float = 0.0,
              num_samples: int = 1, seed: int = 0, top_k: int | None = None,
              top_p: float | None = None, full_luma: bool = False,
              **output_options: Any) -> Prediction:
    """f(image, LM(image)) (paper, section 2.2).

    A photograph of any size and aspect is resized to the model's square, as
    in training; the outputs are resized back: nearest, colours bilinear.

    Args:
      images: one picture or several: paths, PIL images, arrays; see
        `uvim.inference.images.read`.
      temperature: 0 takes the likeliest word each time.
      num_samples: S.
      seed: a sample follows from it and from the pixels alone.
      top_k: see `uvim.priors.sampling.sample`.
      top_p: likewise.
      full_luma: colorization: keeps the photograph's own luma at its full
        resolution, and takes only the colours from the model.
      **output_options: of the task's `outputs` (panoptic: min_fraction).

    Raises:
      ConfigError: there is no language model, an option out of its range, or
        no readable picture.
    """
    self._check_lm()
    self._check_output_options(full_luma, output_options)
    photos = images_lib.read_all(images)
    samples = [self._sample(
        photo, seed, temperature=temperature, num_samples=num_samples,
        top_k=top_k, top_p=top_p) for photo in photos]
    settings = dict(temperature=temperature, seed=seed, top_k=top_k,
                    top_p=top_p, num_samples=num_samples)
    return self._prediction(
        photos, np.stack([s.code[0] for s in samples]), output_options,
        full_luma, logprob=np.stack([s.logprob[0] for s in samples]),
        settings=settings)

  def encode(self, images: Any, labels: Any = None) -> Int[np.ndarray, "n L"]:
    """The oracle's guiding codes for the labels of these images.

    Args:
      images: as in `predict`.
      labels: per image, of any size: panoptic int [H, W, 2] (semantics,
        instance), depth float [H, W] in metres; colorization: None, the
        photographs have their colours.
    """
    photos = images_lib.read_all(images)
    if labels is None:
      labels = self._own_colors(photos)
    elif len(photos) == 1 and np.ndim(labels) in (2, 3) and not (
        isinstance(labels, (list, tuple))):
      labels = [labels]
    if len(labels) != len(photos):
      raise ConfigError(f"{len(photos)} images and {len(labels)} labels.")
    codes = []
    for photo, label in zip(photos, labels, strict=True):
      x = self.task.inputs({"labels": self._label(label)[None]})["x"]
      codes.append(self._oracle(self._stage_i, x, self._context(photo)))
    return np.concatenate(jax.device_get(codes))

  def decode(self, images: Any, codes: Int[Any, "n *S L"], *,
             full_luma: bool = False, **output_options: Any) -> Prediction:
    """The base model's outputs for these codes.

    Args:
      images: as in `predict`.
      codes: [n, L] or [n, S, L], words 0..Q-1; NO_WORD (-1) for a zero vector.
      full_luma: see `predict`.
      **output_options: likewise.
    """
    self._check_output_options(full_luma, output_options)
    photos = images_lib.read_all(images)
    codes_nSL = self._checked_codes(codes, len(photos))
    return self._prediction(photos, codes_nSL, output_options, full_luma)

  def log_prob(self, images: Any, codes: Int[Any, "n *S L"]
               ) -> Float[np.ndarray, "n S L"]:
    """Log-probability (nats) of each word given those before it, of any code.

    Raises:
      ConfigError: there is no language model, or a code with a NO_WORD.
    """
    self._check_lm()
    photos = images_lib.read_all(images)
    codes_nSL = self._checked_codes(codes, len(photos))
    if codes_nSL.min() < 0:
      raise ConfigError("A code in which a word is missing has no likelihood.")
    rows = [self._score(self._lm_params, self._lm_image(photo), code[None])
            for photo, code_SL in zip(photos, codes_nSL, strict=True)
            for code in code_SL]
    return np.concatenate(jax.device_get(rows)).reshape(codes_nSL.shape)

  def mask_codes(self, codes: Int[Any, "*n L"], region: Any = None,
                 mode: str | int = "zeros", *, seed: int = 0
                 ) -> Int[np.ndarray, "*n L"]:
    """The codes with a region that says nothing (paper, Fig 10).

    Args:
      codes: words.
      region: (top, left, bottom, right) on the code's grid, the last two
        exclusive; or bool, [L] or of the grid's shape, for any words; None:
        the whole code.
      mode: what stands there: "zeros" (NO_WORD), "random" for words drawn
        evenly, an integer for this one word.
      seed: the random words of a code follow from it and from the code.
    """
    codes, size = np.asarray(codes), self.model.dict_size
    masked_L = self._region(region)
    if mode == "zeros":
      return np.where(masked_L, NO_WORD, codes)
    if mode == "random":
      rows = codes.reshape(-1, codes.shape[-1]).astype("<i4")
      words = np.stack([
          np.random.default_rng([seed, zlib.crc32(row.tobytes())])
          .integers(0, size, len(row), np.int32) for row in rows])
      return np.where(masked_L, words.reshape(codes.shape), codes)
    if type(mode) is int and 0 <= mode < size:
      return np.where(masked_L, np.int32(mode), codes)
    raise ConfigError(
        f"mode = {mode!r}; it must be 'zeros', 'random' or the index of one "
        f"word, an integer in 0..{size - 1}.")

  @property
  def output_keys(self) -> tuple[str, ...]:
    """The names in `Prediction.outputs`; nothing is computed."""
    codes = np.zeros((1, self.model.code_len), np.int32)
    context = np.zeros((1, *self.model.input_size, 3), np.float32)
    return tuple(jax.eval_shape(
        self._decoder(()), self._stage_i, codes, context))

  @property
  def word_counts(self) -> Float[np.ndarray, "Q"]:
    """How often training used each word lately (discounted counts)."""
    return np.asarray(self._stage_i["codebook"].counts)

  # ── Inside ──────────────────────────────────────────────────────────────

  def _check_lm(self):
    if self.lm is None:
      raise ConfigError("This checkpoint has no language model; encode a label "
                        "and decode its code instead, or give lm=….")

  def _check_output_options(self, full_luma, options):
    if full_luma and not self._is_color:
      raise ConfigError("full_luma is an option of colorization alone.")
    known = self._output_defaults()
    for name in options:
      if name not in known:
        raise unknown("option of this task's outputs", name, known)

  def _output_defaults(self):
    """Option → default of the task's outputs."""
    parameters = inspect.signature(self.task.outputs).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}

  @property
  def _is_color(self) -> bool:
    return tuple(self.task.keys) == ("color",)

  def _own_colors(self, photos):
    if not self._is_color:
      raise ConfigError("The oracle of this task needs labels.")
    return photos

  def _to_model(self, photo, size):
    return images_lib.to_model(photo, size, antialias=self.antialias,
                           grey=self._is_color)[None]

  def _context(self, photo):
    """What oracle and base model see, [1, H, W, 3]."""
    return self._to_model(photo, self.model.input_size)

  def _lm_image(self, photo):
    return self._to_model(photo, self.lm.input_size)

  def _label(self, label):
    """A label at the model's size, [H, W, C]."""
    size = self.model.input_size
    if self._is_color:
      return images_lib.to_model(images_lib.read(label), size,
                             antialias=self.antialias)
    label = np.asarray(label)
    label = label[..., None] if label.ndim == 2 else label
    if label.ndim != 3:
      raise ConfigError(f"A label of shape {label.shape}; allowed: [H, W] or "
                        "[H, W, C].")
    label = images_lib.resize_nearest(label, size)
    if "instances" in self.task.keys:
      label = canonical(label)
    return label

  def _sample(self, photo, seed, **options):
    image = self._lm_image(photo)
    number = zlib.crc32(np.ascontiguousarray(image, "<f4"))
    seeds = decode.example_seeds(np.array([number], np.uint32), seed)
    return jax.device_get(decode.sample(
        self.lm, self._lm_params, image, seeds, **options))

  def _prediction(self, photos, codes_nSL, options, full_luma, logprob=None,
                  settings=None):
    run = self._decoder(tuple(sorted(options.items())))
    outputs = {}
    for photo, code_SL in zip(photos, codes_nSL, strict=True):
      context = self._context(photo)
      samples = [jax.device_get(run(self._stage_i, code[None], context))
                 for code in code_SL]
      for key in samples[0]:
        outputs.setdefault(key, []).append(np.stack([
            self._to_photo(x[key][0], photo, full_luma) for x in samples]))
    settings = {**(settings or {}), **self._output_defaults(), **options}
    if self._is_color:
      settings["full_luma"] = full_luma
    return Prediction(self.task, photos, outputs, codes_nSL, logprob, settings)

  def _to_photo(self, x, photo, full_luma):
    if self._is_color:
      return images_lib.resize_colors(x, photo, full_luma=full_luma)
    return images_lib.resize_nearest(x, photo.shape[:2])

  @functools.cache  # noqa: B019 - as long-lived as the model itself.
  def _decoder(self, options):
    """A jitted decoder for these options of the task's outputs."""
    @jax.jit
    def run(stage_i, codes, context):
      z_BLE = quantizer.embed_code(stage_i["codebook"], jnp.maximum(codes, 0))
      z_BLE = jnp.where((codes < 0)[..., None], 0, z_BLE)
      logits = vit.decode_vectors(
          self.model, stage_i["params"], z_BLE, context)
      return self.task.outputs(logits, **dict(options))
    return run

  @functools.cached_property
  def _oracle(self):
    return jax.jit(lambda stage_i, x, context: vit.oracle_code(
        self.model, stage_i["params"], stage_i["codebook"], x, context))

  @functools.cached_property
  def _score(self):
    @jax.jit
    def run(params, image, codes):
      logits_BLV = self.lm.apply({"params": params}, image, codes + 1)
      return jnp.take_along_axis(
          jax.nn.log_softmax(logits_BLV), codes[..., None] + 1, -1)[..., 0]
    return run

  def _checked_codes(self, codes, count):
    codes, length = np.asarray(codes), self.model.code_len
    codes = codes[:, None] if codes.ndim == 2 else codes
    if codes.ndim != 3 or len(codes) != count or codes.shape[-1] != length:
      raise ConfigError(f"Codes of shape {codes.shape} for {count} image(s); "
                        f"allowed: [{count}, {length}], [{count}, S, "
                        f"{length}].")
    if codes.dtype.kind not in "iu" or codes.size and not (
        NO_WORD <= codes.min() and codes.max() < self.model.dict_size):
      raise ConfigError(
          f"Codes of {codes.dtype} from {codes.min()} to {codes.max()}; "
          f"allowed: integers in 0..{self.model.dict_size - 1}, and {NO_WORD} "
          "for no word.")
    return codes.astype(np.int32)

  def _region(self, region) -> Bool[np.ndarray, "L"]:
    length = self.model.code_len
    if region is None:
      return np.ones(length, bool)
    if np.asarray(region).dtype == bool and np.size(region) == length:
      return np.reshape(region, length)
    region, grid = tuple(np.asarray(region).tolist()), self.grid
    if grid is None or len(region) != 4 or not (
        0 <= region[0] <= region[2] <= grid[0]
        and 0 <= region[1] <= region[3] <= grid[1]):
      raise ConfigError(
          f"region = {region}; it must be (top, left, bottom, right) on a grid "
          f"of {grid} words, or a bool for each of the {length} words.")
    masked = np.zeros(grid, bool)
    masked[region[0]:region[2], region[1]:region[3]] = True
    return masked.reshape(-1)


def canonical(label: Int[np.ndarray, "H W C"]) -> Int[np.ndarray, "H W C"]:
  """Instances, the last channel, as 1, 2, … by mean row, then mean column.

  As the op make_canonical: the oracle was trained on ids in this order.
  """
  ids, index = np.unique(label[..., -1], return_inverse=True)
  index, shape = index.reshape(-1), label.shape[:2]
  count = np.bincount(index)
  y, x = (np.bincount(index, np.broadcast_to(place, shape).reshape(-1)) / count
          for place in np.ogrid[:shape[0], :shape[1]])
  order = np.lexsort((x, y))
  new = ids.copy()
  positive = order[ids[order] > 0]
  new[positive] = np.arange(1, len(positive) + 1)
  out = np.array(label)
  out[..., -1] = new[index].reshape(shape)
  return out
