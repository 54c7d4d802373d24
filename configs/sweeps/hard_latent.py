"""Signs that did not hold, on hard scenes: latent codes longer than patches.

On `rooms` a code is easy to predict, dropout costs more than it brings, and the
longest code is the best. `rooms/hard` has more categories, more things, and
look-alikes that touch. Its images have 64 patches, and the codes here have up
to four words for each.
"""

from configs.sweeps import recipe

LENGTHS = {"full": (16, 64, 256), "rooms": (16, 64, 256), "tiny": (4, 64)}
DROPOUT = {"dropout": {}, "whole": {"model.code_dropout": "none"}}
COLUMNS = ["dropout", "no dropout"]
# Of `rooms/hard`.
NUM_PATCHES = 64
# Nats a word on `rooms`, without dropout: docs/results/table2.md.
EASY = 1.6


def name_of(row, column):
  """The name of a cell."""
  return f"{row}_{column}"


def make_cell(title, changes, length, argument=""):
  """A cell whose code has `length` words."""
  # Both stages see the patches and the words.
  longer = (NUM_PATCHES + length) / (2 * NUM_PATCHES)
  return recipe.Cell(
      title, stage1=changes, cost=(longer, longer), argument=argument)


def cells(size):
  """Row by row: a length, with and without dropout."""
  table = {}
  for length in LENGTHS[size]:
    for column, changes in DROPOUT.items():
      name = name_of(length, column)
      table[name] = make_cell(
          name.replace("_", " "),
          {"model.bottleneck": "latent", "model.code_len": length, **changes},
          length)
  return table


def scores():
  """What is compared, on unseen scenes."""
  return {
      "stage1": recipe.Score("UViM (stage I), PQ", 1, "oracle_code/PQ"),
      "stage2": recipe.Score("UViM (stage II), PQ", 2, "uvim/PQ"),
      "nll_unseen": recipe.Score(
          "LM, NLL of unseen codes, nats a word", 2, "val/loss"),
      "nats": recipe.Score("LM, nats per image", 2, "val/nats_per_code")}


def comparisons(rows):
  """Dropout at each row; the middle row against both ends.

  Args:
    rows: from the shortest code to the longest.
  """
  compare = recipe.compare_cells
  found = []
  for row in rows:
    dropout = name_of(row, "dropout")
    whole = name_of(row, "whole")
    found += [
        compare(f"{row}: dropout: the LM's NLL falls", "nll_unseen", dropout,
                "<", whole, "1.3 : 4.2"),
        compare(f"{row}: dropout: UViM rises or holds", "stage2", dropout, ">",
                whole, "43.7 : 42.2")]
  shortest = name_of(rows[0], "dropout")
  longest = name_of(rows[-1], "dropout")
  middle = name_of(rows[len(rows) // 2], "dropout")
  found += [
      compare("length: stage I is best with the longest code", "stage1",
              longest, ">", shortest, "monotone"),
      compare("length: stage II is not best with the longest code", "stage2",
              middle, ">", longest, "a sweet spot inside"),
      compare("length: stage II is not best with the shortest code", "stage2",
              middle, ">", shortest, "a sweet spot inside")]
  return found


def decisions(longest):
  """What decides about both signs.

  Args:
    longest: the longest code, in words.
  """
  return [
      recipe.Decision(
          sign="Code dropout: UViM's PQ rises or holds (paper: 42.2 to 43.7; "
               "on rooms it falls).",
          guess=f"a code of rooms is easy to predict anyway ({EASY} nats a "
                "word without dropout), so dropout saves the language model "
                "little.",
          confirmed_if=f"without dropout a word of {longest} costs more than "
                       f"{EASY} nats, and UViM with {longest} words is better "
                       "with dropout in all three seeds.",
          refuted_if="without dropout a word costs more than that, and UViM is "
                     "better without dropout at every length in all three "
                     "seeds."),
      recipe.Decision(
          sign="Length of the code: UViM's PQ peaks inside (paper: a drawing; "
               "on rooms it is best at the longest length).",
          guess="the longest code of rooms has one word for each patch; only a "
                "longer code has words that a language model cannot predict.",
          confirmed_if=f"stage I is best with {longest} words, and UViM is "
                       "better with fewer, in all three seeds (with dropout).",
          refuted_if=f"UViM is best with {longest} words in all three seeds "
                     "(with dropout).")]


def get_sweep(size):
  lengths = LENGTHS[size]
  return recipe.Sweep(
      title="Hard scenes: latent codes of up to four words a patch, with and "
            "without dropout (ours; PQ on held-out images)",
      recipe=recipe.rooms_recipe(
          size, "panoptic", "hard", cost=recipe.HARD_COST),
      cells=cells(size),
      grid=recipe.Grid(rows=lengths, columns=COLUMNS,
                       down="words in the code"),
      scores=scores(),
      comparisons=comparisons(lengths),
      decisions=decisions(lengths[-1]))
