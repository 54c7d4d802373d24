"""Extractors: what the network is really fed, and what is said without it."""

import numpy as np
import pytest
import tensorflow as tf

from evaluators import features
from uvim.registry import ConfigError


def _image(seed=0, size=256):
  return np.random.default_rng(seed).integers(0, 256, (size, size, 3),
                                              np.uint8)


def test_quadrants_are_the_mean_colours_of_the_quarters():
  image = np.zeros((4, 6, 3), np.uint8)
  image[:2, :3], image[:2, 3:], image[2:, :3, 1] = 10, 20, 255
  out = features.make_extractor("quadrants")(image)
  assert out.tolist() == [10] * 3 + [20] * 3 + [0, 255, 0] + [0] * 3


@pytest.fixture(scope="module")
def frozen_graph(tmp_path_factory):
  """A graph built like that of Inception, down to an op nobody has today."""
  graph = tf.Graph()
  with graph.as_default():
    image = tf.raw_ops.Placeholder(
        dtype=tf.float32, shape=[1, None, None, 3], name="ExpandDims")
    small = tf.raw_ops.ResizeBilinear(images=image, size=[299, 299])
    x = tf.raw_ops.Mul(x=small - 128., y=1 / 128, name="Mul")
    for name, value in dict(m=0., v=1., beta=0., gamma=2.).items():
      tf.constant([value] * 3, name=name)
    tf.raw_ops.AvgPool(value=x, ksize=[1, 149, 149, 1],
                       strides=[1, 149, 149, 1], padding="VALID",
                       name="pool_3")
  definition = graph.as_graph_def()
  norm = definition.node.add(
      name="norm", op="BatchNormWithGlobalNormalization",
      input=["Mul", "m", "v", "beta", "gamma"])
  norm.attr["T"].type = tf.float32.as_datatype_enum
  norm.attr["variance_epsilon"].f = 0.
  norm.attr["scale_after_normalization"].b = True
  for node in definition.node:
    if node.name == "pool_3":
      node.input[0] = "norm"
  definition.versions.producer = 8  # as in 2015; from 9 on the op is refused
  path = tmp_path_factory.mktemp("graph") / "graph.pb"
  path.write_bytes(definition.SerializeToString())
  return str(path)


def test_frozen_graph_is_fed_scaled_pixels(frozen_graph):
  extract = features.make_extractor(frozen_graph)
  out = extract(np.full((256, 256, 3), 192, np.uint8))
  # 192 / 128 − 1 = 0.5, doubled by the graph's gamma.
  np.testing.assert_allclose(out, np.ones(12), atol=1e-6)
  assert extract(np.zeros((256, 256, 3), np.uint8)) == pytest.approx(-2)


def test_both_entries_of_the_graph_give_the_same(frozen_graph):
  image = _image()
  inner = features.make_extractor(frozen_graph)(image)
  outer = features.make_extractor(
      frozen_graph, input_tensor="ExpandDims:0")(image)
  assert np.ptp(inner) > 1e-3
  np.testing.assert_allclose(inner, outer, atol=1e-5)
  # Had the pixels been resized by another rule, this would differ.
  other = (tf.image.resize(image, (299, 299)).numpy() / 64 - 2)[:149, :149]
  assert np.abs(other.mean((0, 1)) - inner[:3]).max() > 1e-4


def _save_model(folder, outputs, *, named):
  class Model(tf.Module):

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3])])
    def run(self, pictures):
      mean = tf.reduce_mean(pictures, (1, 2))
      return {name: mean + i for i, name in enumerate(outputs)}

  model = Model()
  if not named:
    model.__call__ = model.run
  tf.saved_model.save(model, str(folder), signatures=model.run)
  return str(folder)


@pytest.mark.parametrize("named", [True, False])
def test_saved_model_gives_the_output_asked_for(tmp_path, named):
  path = _save_model(tmp_path / "model", ["logits", "pool_3"], named=named)
  image = np.full((8, 8, 3), 192, np.uint8)
  out = features.make_extractor(path)(image)
  np.testing.assert_allclose(out, [1.5] * 3)
  out = features.make_extractor(path, output_tensor="logits")(image)
  np.testing.assert_allclose(out, [0.5] * 3)
  with pytest.raises(ConfigError, match="'pool' is not.*logits, pool_3"):
    features.make_extractor(path, output_tensor="pool")(image)


@pytest.mark.parametrize("missing", [None, "", "no/such/graph.pb"])
def test_missing_network_comes_with_instructions(missing):
  with pytest.raises(ConfigError, match="inception-2015-12-05.*quadrants"):
    features.make_extractor(missing)


def test_wrong_files_and_names_are_named(tmp_path, frozen_graph):
  with pytest.raises(ConfigError, match="'nope:0'"):
    features.make_extractor(frozen_graph, output_tensor="nope:0")
  garbage = tmp_path / "garbage.pb"
  garbage.write_bytes(b"<html>not found</html>")
  with pytest.raises(ConfigError, match="garbage.pb.*is not a frozen graph"):
    features.make_extractor(str(garbage))
  (tmp_path / "saved_model.pb").write_bytes(b"<html>")
  with pytest.raises(ConfigError, match="cannot be loaded as a SavedModel"):
    features.make_extractor(str(tmp_path))
