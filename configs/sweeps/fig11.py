"""Figure 11 of the paper: code length × dictionary size, colorization."""

from configs.sweeps import fig6, recipe
from configs.sweeps.colour import score


def get_sweep(size):
  cells, axes = fig6.grid(size)
  return dict(
      title="Figure 11: code length and dictionary size, colorization (paper, "
            "appendix C; FID, lower is better; published as a drawing without "
            "figures)",
      **recipe.base(size, "colorization", arg="fid"),
      cells=cells, grid=axes,
      scores={"stage1": score(size, 1, "stage I", {}),
              "stage2": score(size, 2, "stage II", {})},
      checks=[
          ("stage I: longer codes are better", ("stage1", _at(size, -1)), "<",
           ("stage1", _at(size, 0)), "longer is better"),
          ("stage II: shorter codes are slightly better",
           ("stage2", _at(size, 0)), "<", ("stage2", _at(size, -1)),
           "shorter is slightly better")])


def _at(size, end):
  """The cell of the shortest or longest code with a middling dictionary."""
  words = fig6.WORDS[size]
  return f"{fig6.LENGTHS[size][end]}x{words[len(words) // 2]}"
