"""Parameters to start from: what `config.model_init` names."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from uvim import checkpoint, tree
from uvim.registry import ConfigError, lookup
from uvim.typing import PyTree

WHERE = "config.model_init"
# As the listings name pretrained ViTs: 'howto-i21k-L/16'.
RELEASED = re.compile(r"(howto-)?i(1k|21k)-[A-Za-z]+/\d+")

BASE_MODEL_TO_ENCODER = {
    "params/decoder/": "params/encoder/",
    "params/ctx_dec_embedding/": "params/EmbedPatches/",
    "params/pos_embedding_decoder": "params/pos_embedding_encoder",
}


def load(model_init: Any, wanted: Mapping[str, PyTree]) -> dict[str, Any]:
  """Arrays that take the place of freshly drawn ones.

  Args:
    model_init: None, '' or {}: start from scratch. A `.npz` or the workdir of
      a run: everything from there. {'encoder': path}: only 'params/encoder'.
      {'base_model': path}: the image encoder of stage II starts as the base
      model f of a stage I checkpoint, a ViT of the same sizes that has looked
      at the same pictures.
    wanted: {'params': …, 'state': …} of anything with shape and dtype.

  Returns:
    Numpy arrays by name ('params/encoder/…').

  Raises:
    ConfigError: nothing there; arrays of other names, shapes or dtypes.
  """
  if not isinstance(model_init, Mapping):
    return _load(model_init, ".*", wanted)
  out = {}
  for part, path in model_init.items():
    if part == "base_model":
      out |= _load_base_model(path, wanted)
      continue
    lookup(wanted["params"], part, f"part of the parameters in {WHERE}")
    out |= _load(path, f"params/{part}(/.*)?", wanted)
  return out


def _load(path, pattern: str, wanted) -> dict[str, np.ndarray]:
  """The arrays of one file whose names match `pattern`."""
  if not path:
    return {}
  where = f"{WHERE} = {str(path)!r}"
  if RELEASED.fullmatch(str(path)):
    raise ConfigError(
        f"{where}: released weights are not fetched by name yet. Give the "
        "path of a .npz or of a run's workdir, or '' to start from scratch.")
  loaded, fit = ({name: x for name, x in tree.flatten(t).items()
                  if re.fullmatch(pattern, name)}
                 for t in (checkpoint.load_params(path), wanted))
  checkpoint.check_same_arrays(
      checkpoint.array_specs(loaded), checkpoint.array_specs(fit), where)
  return loaded


def _load_base_model(path, wanted) -> dict[str, np.ndarray]:
  """f's blocks, patch and position embedding, renamed to the LM encoder's."""
  if not path:
    return {}
  flat = tree.flatten(checkpoint.load_params(path))
  loaded = {new + name.removeprefix(old): x for name, x in flat.items()
            for old, new in BASE_MODEL_TO_ENCODER.items()
            if name.startswith(old)}
  fit = {name: x for name, x in tree.flatten(wanted).items()
         if name.startswith(tuple(BASE_MODEL_TO_ENCODER.values()))}
  checkpoint.check_same_arrays(
      checkpoint.array_specs(loaded), checkpoint.array_specs(fit),
      f"{WHERE}.base_model = {str(path)!r}")
  return loaded


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
