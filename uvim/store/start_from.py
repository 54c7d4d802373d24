"""Arrays to start from: what `model_init` and `oracle.model_init` name."""

import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from uvim import tree
from uvim.encoders import ENCODERS, convert
from uvim.encoders import base as encoders_base
from uvim.encoders.base import EncoderSpec, Grid
from uvim.encoders.naming import Naming
from uvim.nn.grid import grid_of
from uvim.registry import ConfigError, lookup
from uvim.store import checkpoint, published, shapes
from uvim.typing import PyTree

WHERE = "config.model_init"
Arrays = dict[str, np.ndarray]
# {'params': …, 'state': …} of anything with shape and dtype.
Wanted = Mapping[str, PyTree]
# Part of the parameters → the image encoder that stands there.
EncoderSpecs = Mapping[str, EncoderSpec]

# Stage I's base model → stage II's image encoder: beginnings of names.
BASE_MODEL_TO_ENCODER = {
    "params/decoder/": "params/encoder/",
    "params/ctx_dec_embedding/": "params/EmbedPatches/",
    # Where both see the image with the same image encoder.
    "params/ctx_dec_projection/": "params/image_projection/",
    "params/pos_embedding_decoder": "params/pos_embedding_encoder",
}


class Store:
  """Where families read arrays from.

  Tools that need no checkpoint, such as those that only compile, give a family
  a store of their own with the same two methods.
  """

  def read_all(
      self,
      path: Any,
      wanted: Wanted,
      where: str,
      *,
      kind: str,
  ) -> Arrays:
    """All arrays of a checkpoint, which must be those that are wanted.

    Args:
      path: a `.npz`, the workdir of a run, gs://, https:// or a name; see
        `uvim.store.published.locate`.
      wanted: {'params': …, 'state': …} of anything with shape and dtype.
      where: the config field the path came from, for messages.
      kind: of the family that asks; it decides what 'uvim-panoptic' means.

    Returns:
      Numpy arrays by name ('params/encoder/…').

    Raises:
      ConfigError: nothing there; arrays of other names, shapes or dtypes.
    """
    if not path:
      raise ConfigError(f"{where} = {path!r}; it must name a checkpoint.")
    where = f"{where} = {str(path)!r}"
    loaded = _read(path, where, kind)
    return _fitting(loaded, tree.flatten(wanted), where)

  def read_start(
      self, model_init: Any, wanted: Wanted, *, kind: str,
      encoder_specs: EncoderSpecs | None = None) -> Arrays:
    """Arrays that take the place of freshly drawn ones; says what it loaded.

    Args:
      model_init: None, '' or {}: start from scratch. A path: everything from
        there. Otherwise {part: path} of
        'encoder' – only 'params/encoder' of a stage II checkpoint; an image
        encoder that was pretrained ('howto-i21k-L/16', a `.safetensors`, the
        workdir of a run of kind 'mae') gives stage II's patch and position
        embedding as well, the latter resized;
        'image_encoder' – such an encoder for the block `image_encoder`;
        'base_model' – the image encoder of stage II starts as the base model f
        of a stage I checkpoint, a ViT of the same sizes that has looked at the
        same images;
        'partial' – whatever is there with the right name, shape and dtype; the
        rest is drawn;
        any other part of the parameters – that part.
      wanted: as in `read_all`.
      kind: likewise.
      encoder_specs: the image encoders of the network, by the part of the
        parameters that they are.

    Returns:
      Numpy arrays by name.

    Raises:
      ConfigError: as `read_all`.
    """
    if not model_init:
      return {}
    if not isinstance(model_init, Mapping):
      return self.read_all(model_init, wanted, WHERE, kind=kind)
    loaders = dict.fromkeys(wanted["params"], _load_part)
    loaders |= {"base_model": _load_base_model, "partial": _load_partial}
    arrays = {}
    for part, path in model_init.items():
      load_part = lookup(loaders, part, f"part of the parameters in {WHERE}")
      if path:
        arrays |= load_part(path, part, wanted, kind, encoder_specs or {})
    return arrays


def replace(state: Any, arrays: Mapping[str, np.ndarray]) -> Any:
  """A TrainState with these arrays in place of its own, on the same devices."""
  params = _replace_leaves(state.params, arrays, "params/")
  extra = dict(state.extra)
  # What averages the parameters starts where they do.
  if "ema" in extra:
    extra["ema"] = _replace_leaves(extra["ema"], arrays, "params/")
  if "state" in extra:
    extra["state"] = _replace_leaves(extra["state"], arrays, "state/")
  return state.replace(params=params, extra=extra)


def _replace_leaves(old, arrays, prefix):
  leaves = []
  for name, leaf in tree.flatten(old).items():
    full_name = prefix + name
    if full_name in arrays:
      # Where the old one lies: on one device, split or copied.
      leaf = jax.device_put(arrays[full_name], leaf.sharding)
    leaves.append(leaf)
  structure = jax.tree.structure(old)
  return jax.tree.unflatten(structure, leaves)


# ── Parts of the parameters ─────────────────────────────────────────────────


def _load_part(path, part, wanted, kind, encoder_specs) -> Arrays:
  """One part of the parameters, or a pretrained image encoder."""
  where = f"{WHERE}.{part} = {str(path)!r}"
  spec = encoder_specs.get(part)
  if spec is not None:
    _check_name(path, spec, where)
  loaded = _read(path, where, kind, takes_encoder=spec is not None)
  belongs = re.compile(f"params/{re.escape(part)}(/.*)?").fullmatch
  found = _only(loaded, belongs)
  if spec is not None:
    naming = convert.recognise(loaded)
    if naming is not None:
      return _load_encoder(naming, path, loaded, wanted, spec, where)
    if not found:
      raise _unknown_encoder(loaded, where)
  fit = _only(tree.flatten(wanted), belongs)
  return _fitting(found, fit, where)


def _check_name(path: Any, spec: EncoderSpec, where: str) -> None:
  """Refuses published weights of another family, before they are fetched."""
  family = published.family_of(path)
  if family not in (None, spec.family):
    raise ConfigError(f"{where} is of the family {family!r}, not "
                      f"{spec.family!r}: write {spec.option} = {family!r}.")


def _unknown_encoder(loaded: Arrays, where: str) -> ConfigError:
  try:
    convert.check_names(loaded)
  except ConfigError as error:
    return ConfigError(f"{where}: {error}")
  examples = ", ".join(list(loaded)[:3])
  return ConfigError(
      f"{where}: no image encoder that is known here has names such as "
      f"{examples}; known are those of timm, transformers (4.x) and "
      "big_vision.")


def _load_encoder(
    naming: Naming,
    path: Any,
    loaded: Arrays,
    wanted: Wanted,
    spec: EncoderSpec,
    where: str,
) -> Arrays:
  """An image encoder: blocks, patches and (where it learns them) positions."""
  beginnings = tuple(
      f"params/{spec.below}{part}" for part in encoders_base.PARTS)

  def is_part(name):
    return name.startswith(beginnings)

  fit = _only(tree.flatten(wanted), is_part)
  try:
    grid = _own_grid(path, spec)
    arrays, notes = convert.to_ours(naming, loaded, spec, grid)
    convert.check_sizes(arrays, fit, spec)
  except ConfigError as error:
    raise ConfigError(f"{where}: {error}") from error
  for note in notes:
    _say(f"{where}: {note}")
  return _fitting(arrays, fit, where)


def _own_grid(path: Any, spec: EncoderSpec) -> Grid | None:
  """The grid of an encoder that a run of ours has trained; None: of others.

  Raises:
    ConfigError: it was trained with another style than the network has.
  """
  if not checkpoint.is_workdir(path):
    return None
  model = checkpoint.read_meta(path).get("config", {}).get("model") or {}
  family = model.get("encoder_style", spec.family)
  if family in ENCODERS:
    style = ENCODERS[spec.family].style
    if ENCODERS[family].style != style:
      raise ConfigError(f"it was trained with encoder_style {family!r}, not "
                        f"{spec.family!r}: write {spec.option} = {family!r}.")
  try:
    return grid_of(model["input_size"], model["patch_size"])
  except (KeyError, TypeError, ValueError, ZeroDivisionError):
    # A config that is not ours; its positions must make a square then.
    return None


def _load_base_model(path, part, wanted, kind, encoder_specs) -> Arrays:
  """f's blocks, patch and position embedding, renamed to the LM encoder's."""
  del kind, encoder_specs
  where = f"{WHERE}.{part} = {str(path)!r}"
  stage_i = _read(path, where, "vqvae")
  loaded = {}
  for name, array in stage_i.items():
    for old, new in BASE_MODEL_TO_ENCODER.items():
      if name.startswith(old):
        loaded[new + name.removeprefix(old)] = array
  encoder_names = tuple(BASE_MODEL_TO_ENCODER.values())

  def is_of_encoder(name):
    return name.startswith(encoder_names)

  fit = _only(tree.flatten(wanted), is_of_encoder)
  return _fitting(loaded, fit, where)


def _load_partial(path, part, wanted, kind, encoder_specs) -> Arrays:
  """What fits; an error if that is nothing."""
  del encoder_specs
  where = f"{WHERE}.{part} = {str(path)!r}"
  loaded = _read(path, where, kind)
  found = tree.compare(
      checkpoint.array_specs(loaded), checkpoint.array_specs(wanted))
  if not found.matched:
    raise ConfigError(f"{where}: nothing there fits. {found.report()}")
  _say(f"{where}: {found.report(limit=10)}")
  return {name: loaded[name] for name in found.matched}


def _only(arrays: Mapping[str, Any], belongs: Callable) -> dict[str, Any]:
  """The arrays whose names belong."""
  return {name: array for name, array in arrays.items() if belongs(name)}


def _read(
    path: Any,
    where: str,
    kind: str,
    *,
    takes_encoder: bool = False,
) -> Arrays:
  """The arrays of a checkpoint by name; a bare encoder only where it serves."""
  # Told by its name first, so that it is not fetched for nothing.
  is_encoder = published.family_of(path) is not None
  if takes_encoder or not is_encoder:
    params = published.load_params(path, kind=kind)
    loaded = _unmarked(tree.flatten(params))
    naming = convert.recognise(loaded)
    is_encoder = naming is not None and naming.is_bare
  if is_encoder and not takes_encoder:
    raise ConfigError(
        f"{where} is a bare ViT. It can only be an image encoder: "
        "config.model_init = {'encoder': …} for stage II's own, "
        "{'image_encoder': …} for the block of that name.")
  return loaded


def _unmarked(arrays: Arrays) -> Arrays:
  """Without what only says how a prior predicts: the config says that here."""
  return {name: array for name, array in arrays.items()
          if not name.startswith(shapes.STYLE_MARK)}


def _fitting(loaded: Arrays, fit: Mapping[str, Any], where: str) -> Arrays:
  """`loaded`, if it has the names, shapes and dtypes of `fit`."""
  checkpoint.check_same_arrays(
      checkpoint.array_specs(loaded), checkpoint.array_specs(fit), where)
  num_parameters = sum(array.size for array in loaded.values())
  _say(f"{where}: {len(loaded)} arrays, {num_parameters:,} parameters loaded")
  return loaded


def _say(text: str) -> None:
  # Not to stdout, where commands print what others read.
  print(text, file=sys.stderr, flush=True)
