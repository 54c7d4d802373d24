"""Figure 11 of the paper: code length × dictionary size, colorization."""

from configs.sweeps import colour, fig6, recipe


def get_sweep(size):
  lengths = fig6.LENGTHS[size]
  words = fig6.WORDS[size]
  middle = words[len(words) // 2]
  shortest = fig6.name_of(lengths[0], middle)
  longest = fig6.name_of(lengths[-1], middle)
  compare = recipe.compare_cells
  return recipe.Sweep(
      title="Figure 11: code length and dictionary size, colorization (paper, "
            "appendix C; FID, lower is better; published as a drawing without "
            "figures)",
      recipe=recipe.recipe_of(size, "colorization", "fid"),
      cells=fig6.cells(size),
      grid=fig6.grid(size),
      scores={
          "stage1": colour.score(size, 1, "stage I", {}),
          "stage2": colour.score(size, 2, "stage II", {})},
      comparisons=[
          compare("stage I: longer codes are better",
                  "stage1", longest, "<", shortest, "longer is better"),
          compare("stage II: shorter codes are slightly better",
                  "stage2", shortest, "<", longest,
                  "shorter is slightly better")])
