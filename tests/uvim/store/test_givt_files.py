"""GIVT's stage I files under our names."""

import jax
import numpy as np
import pytest

from uvim import tree
from uvim.registry import ConfigError
from uvim.store import checkpoint, givt_files, open_model

# Two labels, patches of 2 × 3 pixels.
CLASSES = {"first": 4, "second": 5}
WIDTH = 8


def noise(*shape):
  return np.random.default_rng(sum(shape)).normal(size=shape).astype(
      np.float32)


def ends(patch=(2, 3), num_classes=9):
  """What differs from our models: embedding and head."""
  num_logits = patch[0] * patch[1] * num_classes
  return {"params/embedding/kernel": noise(*patch, num_classes, WIDTH),
          "params/embedding/bias": noise(WIDTH),
          "params/decoder_head/kernel": noise(WIDTH, num_logits),
          "params/decoder_head/bias": noise(num_logits)}


def test_embeddings_and_heads_compute_the_same():
  theirs = ends()
  ours = givt_files.rename(theirs, CLASSES)
  rng = np.random.default_rng(0)
  ids = {label: rng.integers(0, num, (2, 3))
         for label, num in CLASSES.items()}
  # Theirs: a product of one-hot labels with the kernel.
  one_hot = np.concatenate(
      [np.eye(num)[ids[label]] for label, num in CLASSES.items()], -1)
  token = np.einsum("pqk,pqkd->d", one_hot, theirs["params/embedding/kernel"])
  token += theirs["params/embedding/bias"]
  of_ours = 0
  for label in CLASSES:
    kernel_KPD = ours[f"params/embedding_{label}/kernel"]
    of_ours += kernel_KPD[ids[label].reshape(-1), np.arange(6)].sum(0)
    of_ours += ours[f"params/embedding_{label}/bias"]
  np.testing.assert_allclose(of_ours, token, rtol=1e-5)

  x_D = noise(WIDTH)
  logits = x_D @ theirs["params/decoder_head/kernel"]
  logits = (logits + theirs["params/decoder_head/bias"]).reshape(6, 9)
  start = 0
  for label, num in CLASSES.items():
    head = {kind: ours[f"params/head_{label}/{kind}"]
            for kind in ("kernel", "bias")}
    logits_KP = np.einsum("d,dkp->kp", x_D, head["kernel"]) + head["bias"]
    np.testing.assert_allclose(
        logits_KP.T, logits[:, start:start + num], rtol=1e-4, atol=1e-5)
    start += num


@pytest.fixture(scope="module")
def model_arrays():
  """Of a model like the published one for depth, in our names."""
  from uvim.models import make_model
  labels = {"depth": (256, 4)}
  model = make_model("vit", dict(
      input_size=(4, 4), patch_size=(2, 2), code_len=4, width=WIDTH,
      oracle_depth=2, base_model_depth=1, mlp_dim=12, num_heads=2,
      inputs=labels, outputs=labels, with_encoder_ctx=False,
      with_decoder_ctx=False, quantizer="gaussian", codeword_dim=3, beta=0.1,
  ), "config.model")
  shapes = tree.flatten(jax.eval_shape(model.init, jax.random.key(0)))
  return {name: noise(*spec.shape) for name, spec in shapes.items()}


def as_published(arrays, is_stacked):
  """The inverse of what reading does."""
  theirs = {}
  stacks = {}
  for name, array in arrays.items():
    before, is_block, rest = name.partition("/encoderblock_")
    if "depth" in name:
      continue
    if is_block and is_stacked:
      number, _, after = rest.partition("/")
      stack = stacks.setdefault(f"{before}/encoderblock/{after}", {})
      stack[int(number)] = array
    else:
      theirs[name] = array
  for name, stack in stacks.items():
    theirs[name] = np.stack([stack[i] for i in range(len(stack))])
  return theirs | ends((2, 2), 256)


def test_a_file_opens_whether_its_blocks_are_stacked_or_not(
    model_arrays, tmp_path):
  read = []
  for is_stacked in (False, True):
    path = tmp_path / f"{is_stacked}.npz"
    # Without 'params/', as some of these programs save.
    theirs = as_published(model_arrays, is_stacked)
    np.savez(path, **{name.removeprefix("params/"): array
                      for name, array in theirs.items()})
    opened = open_model.open_model(path, code_len=4)
    assert not opened.model.spec.is_discrete
    assert opened.model.spec.vector_dim == 3
    assert opened.task.num_bins == 256
    read.append(tree.flatten(opened.arrays))
  assert read[0].keys() == model_arrays.keys()
  for name, array in read[0].items():
    np.testing.assert_array_equal(read[1][name], array)
    if "depth" not in name:
      np.testing.assert_array_equal(array, model_arrays[name])


def test_labels_that_nobody_knows_are_refused(tmp_path):
  path = str(tmp_path / "other.npz")
  np.savez(path, **ends())
  with pytest.raises(ConfigError, match="9 classes.*have 234, 256"):
    checkpoint.load_params(path)
