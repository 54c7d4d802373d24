"""What the explorer knows: the model, and the photographs of this session.

L code length · Q dictionary size · H W pixels of a picture
"""

import base64
import collections
import dataclasses
import hashlib
import io
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np

from uvim.inference import images
from uvim.registry import ConfigError

MAX_PHOTOS = 24  # The oldest is forgotten first.
MAX_PIXELS = 50_000_000  # Of an upload, before it is shrunk to this side:
SIDE = 1024
MAX_SAMPLES = 8


@dataclasses.dataclass
class Entry:
  """A photograph; `labels` (the truth, as the oracle takes it) may be None."""
  photo: np.ndarray
  labels: np.ndarray | None = None


class Session:
  """Every method may be called from any thread; one computes at a time."""

  def __init__(self, uvim: Any, title: str):
    self._uvim, self._title = uvim, title
    self._entries: dict[str, Entry] = collections.OrderedDict()
    self._lock = threading.Lock()
    self.examples: list[str] = []

  def info(self) -> dict[str, Any]:
    """What the page needs to know about the model."""
    model, counts = self._uvim.model, self._uvim.word_counts
    share = counts / max(counts.sum(), 1e-9)
    entropy = -np.sum(share * np.log(np.maximum(share, 1e-30)))
    return {
        "title": self._title, "task": "/".join(self._uvim.task.keys),
        "grid": self._uvim.grid, "length": model.code_len,
        "words": model.dict_size, "lm": self._uvim.lm is not None,
        "max_samples": MAX_SAMPLES, "examples": self.examples,
        "counts": np.round(counts, 3).tolist(),
        "perplexity": float(np.exp(entropy))}

  def add(self, data: bytes) -> str:
    """Reads an uploaded photograph; returns its id.

    Raises:
      ConfigError: not a picture, or one of too many pixels.
    """
    photo = images.to_bytes(images.read(
        io.BytesIO(data), max_pixels=MAX_PIXELS))
    return self.add_entry(images.fit(photo, SIDE))

  def add_entry(self, photo: np.ndarray, labels: Any = None) -> str:
    """Keeps a photograph; the same one has the same id."""
    if labels is None and tuple(self._uvim.task.keys) == ("color",):
      labels = photo  # A photograph in colour is its own truth.
    number = hashlib.sha256(
        repr(photo.shape).encode() + photo.tobytes()).hexdigest()[:16]
    with self._lock:
      old = self._entries.pop(number, None)
      labels = old.labels if old and labels is None else labels
      self._entries[number] = Entry(photo, labels)
      spare = [k for k in self._entries if k not in self.examples]
      for key in spare[:max(0, len(self._entries) - MAX_PHOTOS)]:
        del self._entries[key]
    return number

  def describe(self, number: str) -> dict[str, Any]:
    """The photograph; with labels the truth, and what the oracle makes of it.
    """
    entry, uvim = self._entry(number), self._uvim
    height, width = entry.photo.shape[:2]
    out = {"id": number, "width": width, "height": height,
           "photo": _data_url(entry.photo)}
    if entry.labels is not None:
      with self._lock:
        out["truth"] = self._draw_labels(entry)
        if uvim.model.oracle_depth:
          codes = uvim.encode([entry.photo], [entry.labels])
          drawn = uvim.priors.sampling([entry.photo], codes)
          out["oracle"] = self._sample(drawn, 0, self._confidence(
              entry, codes))
    return out

  def predict(self, number: str, **options: Any) -> list[dict[str, Any]]:
    """Samples of the language model; options as of `UViM.predict`."""
    entry = self._entry(number)
    with self._lock:
      got = self._uvim.predict([entry.photo], **options)
    return [self._sample(got, s, got.logprob[0, s])
            for s in range(got.num_samples)]

  def decode(self, number: str, code: Iterable[int]) -> dict[str, Any]:
    """What the base model makes of a code that somebody has painted."""
    entry = self._entry(number)
    codes = np.array([code])
    with self._lock:
      got = self._uvim.decode([entry.photo], codes)
      return self._sample(got, 0, self._confidence(entry, codes))

  def _entry(self, number: str) -> Entry:
    with self._lock:
      if number not in self._entries:
        raise ConfigError("This photograph is not here any more; drop it in "
                          "again.")
      return self._entries[number]

  def _confidence(self, entry, codes):
    """Log-probabilities [L] under the language model, where there are any."""
    if self._uvim.lm is None or codes.min() < 0:
      return None
    return self._uvim.log_prob([entry.photo], codes)[0, 0]

  def _sample(self, prediction, s, logprob) -> dict[str, Any]:
    out = {"code": prediction.codes[0, s].tolist(),
           "picture": _data_url(prediction.pictures()[0][s])}
    if logprob is not None:
      out["confidence"] = np.round(np.exp(logprob), 4).tolist()
      out["bits"] = float(-logprob.mean() / np.log(2))
    return out

  def _draw_labels(self, entry) -> str:
    task = self._uvim.task
    if tuple(task.keys) == ("color",):
      return _data_url(entry.photo)
    labels = images.resize_nearest(
        np.asarray(entry.labels), entry.photo.shape[:2])
    return _data_url(task.render(task.truth({"labels": labels[None]}))[0])


def _data_url(picture: np.ndarray) -> str:
  """Encoded anew: nothing of an uploaded file is ever sent back."""
  from PIL import Image
  out = io.BytesIO()
  Image.fromarray(picture).save(out, "PNG", compress_level=1)
  return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def add_examples(session: Session, checkpoint: str, count: int) -> str:
  """Photographs with truth from the split that the run never trained on.

  Returns:
    Why there are none; '' if there are.
  """
  from uvim.store import open_model as load
  config = load.read_config(checkpoint)
  if not (config.get("val_split") and config.get("pp_eval")):
    return "the checkpoint does not tell its data set"
  try:
    import tensorflow as tf

    from pp import sources
    from pp import stream as pipeline
    source = sources.make_source(
        config["dataset"], config["val_split"], config.get("data_dir"))
    preprocess = pipeline.make_preprocess(
        config["pp_eval"], config.get("pp_modules"))
    for index in range(min(count, source.num_examples)):
      raw = tf.constant(source.read([index])[0])
      example = source.parse(raw, index)
      seen = preprocess(example, tf.zeros([2], tf.int64))
      photo = images.read(io.BytesIO(example["image"].numpy()))
      # Where the string crops, only what it leaves fits the labels.
      if "crop" in config["pp_eval"]:
        photo = seen.get("image_ctx", seen["image"]).numpy()
      photo = images.fit(images.to_bytes(photo), SIDE)
      labels = None if "color" in session.info()["task"] else (
          seen["labels"].numpy())
      session.examples.append(session.add_entry(photo, labels))
  except (ImportError, ConfigError) as e:
    return " ".join(str(e).split())
  return ""
