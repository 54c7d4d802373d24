"""Bars: which of them leave a trace."""

from uvim import progress


def test_a_bar_that_does_not_stay_shows_nothing_of_what_is_quick(capsys):
  items = progress.bar(
      range(3), total=3, label="uvim", unit="images", stays=False)
  assert list(items) == [0, 1, 2]
  assert capsys.readouterr() == ("", "")


def test_other_bars_stay(capsys):
  items = progress.bar(range(3), total=3, label="uvim", unit="images")
  assert list(items) == [0, 1, 2]
  assert "uvim: 100%" in capsys.readouterr().err
