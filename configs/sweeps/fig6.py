"""Figure 6 of the paper: code length × dictionary size, panoptic."""

from configs.sweeps import recipe

# On rooms a code has as many words as the grid has tokens, 36, or fewer.
LENGTHS = {"full": (64, 256, 1024), "rooms": (4, 16, 36), "tiny": (4, 16)}
WORDS = {"full": (1024, 4096, 16384), "rooms": (64, 256, 1024),
         "tiny": (8, 16)}


def grid(size):
  """(cells, grid) of a sweep over the size of the code."""
  lengths, words = LENGTHS[size], WORDS[size]
  cells = {
      f"{length}x{word}": dict(
          title=f"{length} × {word}", stage1={
              "model.code_len": length, "model.dict_size": word})
      for length in lengths for word in words}
  return cells, dict(corner="words in the code", rows=lengths,
                     columns=words, across="words in the dictionary")


def get_sweep(size):
  cells, axes = grid(size)
  metrics = recipe.metric(size, "coco_panoptic_holdout/PQ", "PQ")
  return dict(
      title="Figure 6: code length and dictionary size, panoptic segmentation "
            "(paper; PQ on held-out pictures; published as a drawing without "
            "figures)",
      **recipe.base(size, "panoptic"), cells=cells, grid=axes,
      scores={
          "stage1": dict(title="stage I, PQ", stage=1, metric=metrics[0],
                         published={}),
          "stage2": dict(title="stage II, PQ", stage=2, metric=metrics[1],
                         published={}),
          "nll_unseen": dict(title="LM, NLL of unseen codes, nats a word",
                             stage=2, metric="val/loss", published={})},
      checks=[
          ("stage I gains from longer codes and more words", ("stage1",),
           "rises", None, "monotone"),
          ("stage II is best at neither end of the lengths", ("stage2",),
           "peaks inside rows", None, "a sweet spot inside"),
          ("stage II is best at neither end of the dictionaries", ("stage2",),
           "peaks inside columns", None, "a sweet spot inside")])
