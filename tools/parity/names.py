"""Names, shapes and dtypes of a model's arrays, by evaluating shapes."""

import ast
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from tools.parity import stage1, stage2
from tools.parity.common import Quantity
from tools.parity.fixtures import Fixture
from uvim import tree
from uvim.models import make_model


def compare(fixture: Fixture) -> Iterator[Quantity]:
  """One quantity: the whole list, which agrees or not.

  The first line of the file ends with the fields of the model, a Python dict.
  Each other line is name, shape and dtype of an array, with tabs between.
  """
  head, *lines = fixture.path.read_text().splitlines()
  fields_text = head[head.index("{"):]
  fields = ast.literal_eval(fields_text)
  theirs = {tuple(line.split("\t")) for line in lines}
  ours = set()
  for name, array in _model_arrays(fields).items():
    shape = str(tuple(array.shape))
    ours.add((name, shape, array.dtype.name))
  # Lines that one side alone has.
  different = {name for name, *_ in theirs ^ ours}
  note = ""
  if different:
    first_names = sorted(different)[:3]
    note = f"differ: {', '.join(first_names)} …"
  title = f"{fixture.name}: {len(theirs)} names, shapes, dtypes"
  our_lines = np.array(sorted(ours))
  their_lines = np.array(sorted(theirs))
  yield Quantity(title, our_lines, their_lines, note=note)


def _model_arrays(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Shapes of parameters and state by published name, for either stage."""
  rng = jax.random.key(0)
  # Only the language model has a vocabulary.
  if "vocab_size" in fields:
    prior = stage2.make_prior(fields)
    arrays = {"params": jax.eval_shape(prior.init, rng)}
  else:
    model = make_model("vit", stage1.model_fields(fields), "config")
    arrays = jax.eval_shape(model.init, rng)
  return tree.flatten(arrays)
