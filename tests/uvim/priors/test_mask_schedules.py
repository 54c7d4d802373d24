"""How many words are masked: as the original has it, and always fewer."""

import numpy as np
import pytest

from uvim.priors import mask_schedules

METHODS = ("uniform", "cosine", "log", "exp", "pow2", "pow0.5")


@pytest.mark.parametrize("method", METHODS)
def test_the_share_is_the_originals(shared, method):
  path = shared / "fixtures_codes" / "dev" / "maskgit.npz"
  if not path.is_file():
    pytest.skip("skipped: no fixtures of masked prediction")
  arrays = np.load(path)
  ratio = arrays["schedule/ratio"]
  for num_words in (36, 256):
    got = mask_schedules.masked_share(ratio, np.float32(num_words), method)
    np.testing.assert_allclose(
        got, arrays[f"schedule/{num_words}/{method}"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_ever_fewer_words_are_masked_and_none_at_the_end(method):
  num_masked_TL = mask_schedules.num_masked(7, 20, method)
  assert num_masked_TL.shape == (7, 21)
  assert np.all(np.diff(num_masked_TL, axis=0) <= 0)
  assert np.all(num_masked_TL[-1] == 0)
  assert np.all(num_masked_TL <= np.arange(21)[None])
  assert num_masked_TL[0, 20] > 0


def test_the_count_is_that_of_float32():
  # 16 · cos 60° is 8 in exact arithmetic.
  assert mask_schedules.num_masked(6, 16, "cosine")[3, 16] == 7


def test_as_many_steps_as_words_mask_one_less_each_time():
  # These fall slowly at first. So the rule "one less than before" is at work.
  for method in ("uniform", "cosine", "pow2"):
    num_masked_T = mask_schedules.num_masked(16, 16, method)[:, 16]
    assert np.all(num_masked_T >= np.arange(15, -1, -1))


@pytest.mark.parametrize("method,is_allowed", [
    ("cosine", True), ("pow2", True), ("pow0.5", True), ("pow", False),
    ("pow-1", False), ("powinf", False), ("pownan", False), ("cos", False),
    (2, False), (None, False)])
def test_which_methods_there_are(method, is_allowed):
  assert mask_schedules.METHOD.fits(method) == is_allowed
