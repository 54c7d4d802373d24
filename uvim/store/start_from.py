"""Parameters to start from: what `config.model_init` names."""

import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from uvim import tree
from uvim.encoders import augreg as pretrained
from uvim.registry import ConfigError, lookup
from uvim.store import checkpoint
from uvim.store import published as released
from uvim.typing import PyTree

WHERE = "config.model_init"
Arrays = dict[str, np.ndarray]

BASE_MODEL_TO_ENCODER = {
    "params/decoder/": "params/encoder/",
    "params/ctx_dec_embedding/": "params/EmbedPatches/",
    "params/pos_embedding_decoder": "params/pos_embedding_encoder",
}


def load(model_init: Any, wanted: Mapping[str, PyTree], *,
         grid: tuple[int, int] | None = None) -> Arrays:
  """Arrays that take the place of freshly drawn ones; says what it loaded.

  A path is a `.npz`, the workdir of a run, gs://, https:// or a name
  (`uvim.store.published.locate`). Names, shapes and dtypes must agree.

  Args:
    model_init: None, '' or {}: start from scratch. A path: everything from
      there. {'encoder': path}: only 'params/encoder'; a ViT ('howto-i21k-L/16')
      gives stage II's patch and position embedding as well, the latter
      resampled. {'base_model': path}: the image encoder of stage II starts as
      the base model f of a stage I checkpoint, a ViT of the same sizes that
      has looked at the same pictures. {'partial': path}: whatever is there
      with the right name, shape and dtype; the rest is drawn.
    wanted: {'params': …, 'state': …} of anything with shape and dtype.
    grid: rows and columns of stage II's image patches, for a ViT.

  Returns:
    Numpy arrays by name ('params/encoder/…').

  Raises:
    ConfigError: nothing there; arrays of other names, shapes or dtypes.
  """
  if not isinstance(model_init, Mapping):
    return load_all(model_init, wanted, WHERE) if model_init else {}
  out = {}
  for part, path in model_init.items():
    loaders = dict.fromkeys(wanted["params"], _load_part) | {
        "base_model": _load_base_model, "partial": _load_partial}
    load_part = lookup(loaders, part, f"part of the parameters in {WHERE}")
    if path:
      out |= load_part(path, part, wanted, grid)
  return out


def load_all(path: Any, wanted: Mapping[str, PyTree], where: str) -> Arrays:
  """All arrays of a checkpoint, which must be those that are wanted.

  Args:
    path: as in `load`.
    wanted: as in `load`.
    where: the config field the path came from, for messages.

  Raises:
    ConfigError: as `load`.
  """
  if not path:
    raise ConfigError(f"{where} = {path!r}; it must name a checkpoint.")
  where = f"{where} = {str(path)!r}"
  loaded = _read(path, where, _stage(wanted))
  return _fitting(loaded, tree.flatten(wanted), where)


def _load_part(path, part, wanted, grid) -> Arrays:
  """One part of the parameters, or an encoder from a ViT."""
  where = f"{WHERE}.{part} = {str(path)!r}"
  stage = _stage(wanted)
  takes_vit = part == "encoder" and stage == 2
  loaded = _read(path, where, stage, takes_vit=takes_vit)
  if takes_vit and pretrained.is_vit(loaded):
    return _load_vit(loaded, wanted, grid, where)
  part = re.compile(f"params/{re.escape(part)}(/.*)?")
  return _fitting(_only(loaded, part.fullmatch),
                  _only(tree.flatten(wanted), part.fullmatch), where)


def _load_vit(loaded, wanted, grid, where) -> Arrays:
  """Encoder, patch and (where it is learned) position embedding of a ViT."""
  fit = _only(tree.flatten(wanted), pretrained.ENCODER.fullmatch)
  if pretrained.POSITIONS not in fit:
    grid = None
  arrays, left = pretrained.encoder_arrays(loaded, grid)
  _say(f"{where}: not of use here: {', '.join(left) or 'nothing'}")
  return _fitting(arrays, fit, where)


def _load_base_model(path, part, wanted, grid) -> Arrays:
  """f's blocks, patch and position embedding, renamed to the LM encoder's."""
  del grid
  where = f"{WHERE}.{part} = {str(path)!r}"
  loaded = {new + name.removeprefix(old): x
            for name, x in _read(path, where, 1).items()
            for old, new in BASE_MODEL_TO_ENCODER.items()
            if name.startswith(old)}
  fit = _only(tree.flatten(wanted), lambda name: name.startswith(
      tuple(BASE_MODEL_TO_ENCODER.values())))
  return _fitting(loaded, fit, where)


def _load_partial(path, part, wanted, grid) -> Arrays:
  """What fits; an error if that is nothing."""
  del grid
  where = f"{WHERE}.{part} = {str(path)!r}"
  loaded = _read(path, where, _stage(wanted))
  found = tree.compare(checkpoint.array_specs(loaded),
                       checkpoint.array_specs(wanted))
  if not found.matched:
    raise ConfigError(f"{where}: nothing there fits. {found.report()}")
  _say(f"{where}: {found.report(limit=10)}")
  return {name: loaded[name] for name in found.matched}


def _stage(wanted) -> int:
  """Only stage I has a dictionary."""
  return 1 if "state" in wanted else 2


def _only(arrays: Mapping[str, Any], want: Callable) -> dict[str, Any]:
  return {name: x for name, x in arrays.items() if want(name)}


def _read(path, where: str, stage: int, *, takes_vit: bool = False) -> Arrays:
  """The arrays of a checkpoint by name; a bare ViT only where it is of use."""
  # By its name, before it is fetched for nothing.
  bare_vit = path in released.VITS
  if takes_vit or not bare_vit:
    loaded = tree.flatten(released.load_params(path, stage=stage))
    bare_vit = pretrained.is_vit(loaded)
  if bare_vit and not takes_vit:
    raise ConfigError(
        f"{where} is a bare ViT. It can only be the image encoder of stage II: "
        "config.model_init = {'encoder': …}.")
  return loaded


def _fitting(loaded: Arrays, fit: Mapping[str, Any], where: str) -> Arrays:
  """`loaded`, if it has the names, shapes and dtypes of `fit`."""
  checkpoint.check_same_arrays(
      checkpoint.array_specs(loaded), checkpoint.array_specs(fit), where)
  _say(f"{where}: {len(loaded)} arrays, "
       f"{sum(x.size for x in loaded.values()):,} parameters loaded")
  return loaded


def _say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)


def replace(state: Any, arrays: Mapping[str, np.ndarray]) -> Any:
  """`state` with these parameters and dictionary, on the same devices."""
  def put(prefix, old):
    names = tree.leaf_names(old)
    leaves = [
        jax.device_put(arrays[prefix + name], leaf.sharding)
        if prefix + name in arrays else leaf
        for name, leaf in zip(names, jax.tree.leaves(old), strict=True)]
    return jax.tree.unflatten(jax.tree.structure(old), leaves)

  return state.replace(params=put("params/", state.params),
                       codebook=put("state/", state.codebook))
