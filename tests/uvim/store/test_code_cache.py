"""What a cache of codes has to agree in with a run."""

from tests.trainers import tiny
from uvim.store import code_cache


def header(**model):
  config = tiny.stage_ii_config("none", codes_per_image=1)
  config.oracle.model.update(model)
  return code_cache.describe(config, {"params": {}})


def test_a_cache_may_be_older_than_a_field_of_the_model():
  old = header(bottleneck_resize=True)
  new = header(bottleneck="resize", code_grid=None)
  assert code_cache.CACHE.difference(old, new) == []
  other, = code_cache.CACHE.difference(header(bottleneck_resize=False), new)
  assert other.startswith("oracle: ")
