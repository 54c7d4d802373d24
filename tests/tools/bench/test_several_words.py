"""What the measurement of several words a pass learns from, and refuses."""

import numpy as np
import pytest

from tools.bench import several_words


def test_the_code_of_a_small_model_tells_how_bright_each_patch_is():
  image = np.full((2, 16, 24, 3), -1, np.float32)
  # The upper right patch of the second image is white, the one below it gray.
  image[1, :8, 16:] = 1
  image[1, 8:, 16:] = 0
  code = several_words.brightness_code(image)
  highest = several_words._NUM_LEVELS - 1
  np.testing.assert_array_equal(code[0], np.zeros(6))
  np.testing.assert_array_equal(code[1], [0, 0, highest, 0, 0, 16])


@pytest.mark.parametrize("argument,value", [
    ("--words", "1"), ("--batch", "0"), ("--steps", "0")])
def test_numbers_that_cannot_be_measured_are_named(argument, value, capsys):
  assert several_words.main([argument, value]) == 2
  assert f"{argument} {value}; must be at least" in capsys.readouterr().err


def test_the_report_is_a_table():
  row = dict.fromkeys(several_words._COLUMNS, 0.5) | {"guesses": "draft"}
  lines = several_words.markdown([row]).splitlines()
  assert len(lines) == 3
  assert {line.count("|") for line in lines} == {9}
  assert "| draft |" in lines[2]
