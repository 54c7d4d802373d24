"""UViM for inference: from a checkpoint to predictions, without TensorFlow.

n images · S samples per image · L code length · H W pixels of the model
"""

import dataclasses
import functools
import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from uvim import decode, released, tree
from uvim.models import infer, make_model, vit
from uvim.quantizer import Codebook
from uvim.registry import ConfigError
from uvim.tasks import make_task
from uvim.tasks.base import AbstractTask
from uvim.typing import Float, Int


@dataclasses.dataclass(frozen=True)
class Prediction:
  """What UViM sees in a batch of images.

  Attributes:
    outputs: the task's outputs, each [n, S, …] (numpy).
    codes: the guiding codes behind them, int32 [n, S, L].
    logprob: log-probability of each word in nats, f32 [n, S, L].
  """
  outputs: Mapping[str, np.ndarray]
  codes: Int[np.ndarray, "n S L"]
  logprob: Float[np.ndarray, "n S L"]


class UViM:
  """A trained base model with its oracle and, if there is one, its LM.

  Attributes:
    task: turns logits into outputs, and outputs into pictures.
    model: stage I.
    lm: stage II, or None.
  """

  def __init__(self, task: AbstractTask, model, params, codebook: Codebook,
               lm=None, lm_params=None):
    self.task, self.model, self.lm = task, model, lm
    self._stage_i = {"params": params, "codebook": codebook}
    self._lm_params = lm_params

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
    if _is_name(path):
      path, lm = f"{path}-stage1", lm or f"{path}-stage2"
    config = _read_config(path)
    if config.get("oracle"):
      path, lm = _oracle_path(path, config), path
    stage_i = _load(path, 1)
    lm_arrays = _load(lm, 2) if lm else None
    lm_fields = _lm_fields(lm, lm_arrays) if lm else None
    code_len = code_len or (lm_fields or {}).get("seq_len", infer.CODE_LEN)
    fields, task, options = _stage_i_fields(path, stage_i, code_len)
    model = make_model("vit", fields, "the checkpoint's model")
    out = cls(
        make_task(task, fields, **(task_options or options)), model,
        stage_i["params"], Codebook(**stage_i["state"]))
    if lm:
      out._set_lm(lm_fields, lm_arrays["params"])
    return out

  def _set_lm(self, fields, params):
    lm = make_model("lm", fields, "the checkpoint's language model")
    want = {"vocab_size": self.model.dict_size + 1,
            "seq_len": self.model.code_len}
    for name, value in want.items():
      if getattr(lm, name) != value:
        raise ConfigError(f"The language model's {name} is {getattr(lm, name)};"
                          f" the code of this stage I model needs {value}.")
    self.lm, self._lm_params = lm, params

  def predict(self, images: Float[Any, "n H W 3"], *,
              temperature: float = 0.0, num_samples: int = 1, seed: int = 0,
              top_k: int | None = None, top_p: float | None = None,
              **output_options: Any) -> Prediction:
    """f(image, LM(image)) (paper, section 2.2).

    Args:
      images: in [-1, 1], of the language model's size; for colorization with
        three equal channels.
      temperature: 0 takes the likeliest word each time.
      num_samples: S.
      seed: an image's sample depends on it and on the image's place alone.
      top_k: see `uvim.decode.sample`.
      top_p: likewise.
      **output_options: of the task's `outputs` (panoptic: min_fraction).

    Raises:
      ConfigError: there is no language model, or images of another size.
    """
    if self.lm is None:
      raise ConfigError("This checkpoint has no language model; encode a label "
                        "and decode its code instead, or give lm=….")
    images = self._checked(images, self.lm.input_size)
    seeds = decode.example_seeds(np.arange(len(images)), seed)
    samples = decode.sample(
        self.lm, self._lm_params, images, seeds, temperature=temperature,
        num_samples=num_samples, top_k=top_k, top_p=top_p)
    context = self._context(images)
    outputs = [self._decode(samples.code[:, s], context, output_options)
               for s in range(num_samples)]
    stacked = jax.tree.map(lambda *x: np.stack(x, 1), *outputs)
    return Prediction(stacked, np.asarray(samples.code),
                      np.asarray(samples.logprob))

  def encode(self, images: Float[Any, "n H W 3"],
             labels: Any) -> Int[np.ndarray, "n L"]:
    """The oracle's guiding codes for labels [n, H, W, C] of these images."""
    batch = {"image": self._checked(images, self.model.input_size),
             "labels": np.asarray(labels)}
    data = self.task.inputs(batch)
    return np.asarray(vit.oracle_code(
        self.model, self._stage_i["params"], self._stage_i["codebook"],
        data["x"], data["ctx"]))

  def decode(self, images: Float[Any, "n H W 3"], codes: Int[Any, "n L"],
             **output_options: Any) -> dict[str, np.ndarray]:
    """The base model's outputs for these codes, each [n, …]."""
    images = self._checked(images, self.model.input_size)
    return self._decode(jnp.asarray(codes), images, output_options)

  def _decode(self, codes, context, options):
    run = self._decoder(tuple(sorted(options.items())))
    return jax.device_get(run(self._stage_i, codes, context))

  @functools.cache  # noqa: B019 - as long-lived as the model itself.
  def _decoder(self, options):
    """A jitted decoder for these options of the task's outputs."""
    @jax.jit
    def run(stage_i, codes, context):
      logits = vit.decode_code(self.model, stage_i["params"],
                               stage_i["codebook"], codes, context)
      return self.task.outputs(logits, **dict(options))
    return run

  def _context(self, images):
    """What f sees of the language model's images."""
    height, width = self.model.input_size
    if images.shape[1:3] == (height, width):
      return images
    return jax.image.resize(
        images, (len(images), height, width, 3), "bilinear", antialias=False)

  def _checked(self, images, size):
    images = np.asarray(images, np.float32)
    if images.ndim != 4 or images.shape[1:] != (*size, 3):
      raise ConfigError(f"Images of shape {images.shape}; this model takes "
                        f"[n, {size[0]}, {size[1]}, 3] in [-1, 1].")
    return images


def _is_name(path) -> bool:
  return f"{path}-stage1" in released.MODELS


def _read_config(path) -> dict[str, Any]:
  """The config a run left in its workdir; {} for anything else."""
  path = os.fspath(path)
  if path.endswith(".npz") or path in released.MODELS:
    return {}
  file = epath.Path(path) / "config.json"
  return json.loads(file.read_text()) if file.exists() else {}


def _oracle_path(path, config) -> str:
  """Stage I of a stage II run: as the run named it, or beside the run."""
  oracle = config["oracle"]["model_init"]
  beside = epath.Path(os.fspath(path)).parent / epath.Path(oracle).name
  moved = not epath.Path(oracle).exists() and beside.exists()
  return os.fspath(beside) if moved else oracle


def _load(path, stage: int) -> dict[str, Any]:
  arrays = released.load_params(path, stage=stage)
  is_stage_i = infer.is_stage_i(tree.flatten(arrays))
  if is_stage_i != (stage == 1):
    raise ConfigError(f"{path} is a checkpoint of stage {2 - is_stage_i}; "
                      f"stage {stage} is needed here.")
  return arrays


def _shapes(arrays) -> dict[str, tuple[int, ...]]:
  return {name: tuple(x.shape) for name, x in tree.flatten(arrays).items()}


def _stage_i_fields(path, arrays, code_len):
  """(model fields, task name, task options) of a stage I checkpoint."""
  config = _read_config(path)
  if config:
    return config["model"], config["task"], config.get("task_options", {})
  fields = infer.stage_i_fields(_shapes(arrays), code_len)
  return fields, infer.task_name(fields), {}


def _lm_fields(path, arrays) -> Mapping[str, Any]:
  config = _read_config(path)
  return config["model"] if config else infer.stage_ii_fields(_shapes(arrays))
