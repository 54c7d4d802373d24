"""What the names on a run's page mean: one sentence each."""

from trainers.report import pairs, run_files
from trainers.report.run_files import Run

_METRICS = {
    "PQ": "panoptic quality in percent, 100 is perfect: RQ times SQ of each "
    "category, then the mean over the categories.",
    "SQ": "segmentation quality: how well the segments that were found fit "
    "(their mean IoU).",
    "RQ": "recognition quality: how many segments were found, and how few are "
    "false.",
    "mIoU": "pixels of a class that prediction and truth share, divided by all "
    "that either has; the mean over the classes, in percent.",
    "RMSE": "root of the mean squared error, here in metres; less is better.",
    "energy": "how far several answers are from the truth as whole maps, less "
    "how far they are from each other, in metres; less is better.",
    "CRPS": "the same pixel by pixel.",
    "CRPS_pairs": "the same for the difference between two pixels: whether "
    "pixels fit together.",
    "RMSE_one": "RMSE of one of several answers; the mean over them.",
    "RMSE_best": "RMSE of the best of several answers.",
    "RMSE_mean": "RMSE of the mean of several answers.",
    "ordering": "share of pairs of pixels of which an answer says rightly "
    "which is nearer.",
    "delta1": "share of pixels whose depth is off by less than a quarter.",
    "PSNR": "how close the colors are, pixel by pixel, in decibels; more is "
    "better.",
    "FID": "how far the predicted images as a whole are from true ones; less "
    "is better.",
    "FID_5k": "how far the predicted images as a whole are from true ones; "
    "less is better.",
    "mean_angle": "mean angle to the true normals in degrees; less is better.",
    run_files.WORDS_PER_CODE: "how many different words a code holds; 1 means "
    "that one word stands everywhere.",
    run_files.WORDS_PER_PASS: "how many words one pass of the language model "
    "drew; more is quicker, and changes no word.",
    "bits_per_codeword": "how unsure the language model is of the next word; "
    "0 is certain, and guessing costs the logarithm of the codebook's size.",
    "nats_per_code": "how unsure the language model is of a whole code; less "
    "is better.",
    "masked_nll": "how unsure the model is of a masked word of the code, in "
    "nats; 0 is certain.",
    "draft_nll": "how unsure the draft, which guesses words for the language "
    "model, is of the next word, in nats.",
    "loss": "what training makes smaller, here on images that it never saw.",
    "loss_semantics": "the part of the loss that comes from the classes.",
    "loss_instances": "the part of the loss that comes from the ids of the "
    "instances.",
    "bit_accuracy": "share of the bits of a mask with noise that the network "
    "gets right; guessing has a half.",
}
_SAMPLES = "samples"
_PREDICTIONS_OF_STAGE_I = {
    pairs.LM: "the code comes from the oracle, which sees the truth: no model "
    "of stage II can do better with this base model.",
    pairs.NO_CODE: "no code (all zeros): what the base model sees in the image "
    "alone.",
    _SAMPLES: "several answers, each pixel drawn by itself.",
    "loss": "the training loss on unseen images.",
}
_PREDICTIONS_OF_STAGE_II = {
    pairs.LM: "UViM: the language model writes the code from the image alone. "
    "This is what predictions will be like.",
    pairs.ORACLE: "the code comes from stage I's oracle, which sees the truth: "
    "the best that UViM could reach.",
    _SAMPLES: "UViM's answers to several codes of the language model.",
    pairs.NO_CODE: "no code (all zeros): what is left if it says nothing.",
    "loss": "the training loss on unseen images.",
}
_PREDICTIONS_OF_PIX2SEQ_D = {
    pairs.LM: "the network takes the noise out of a mask, step by step, and "
    "sees the image alone. This is what predictions will be like.",
    "loss": "the training loss on unseen images.",
}
_PREDICTIONS = {
    "vqvae": _PREDICTIONS_OF_STAGE_I,
    "lm": _PREDICTIONS_OF_STAGE_II,
    "pix2seq_d": _PREDICTIONS_OF_PIX2SEQ_D,
}


def of_run(run: Run) -> list[tuple[str, str]]:
  """The names of a run's evaluators and scores that are known: (name, text)."""
  meanings = _PREDICTIONS.get(run_files.kind_of(run.config), {})
  rows = {}
  for evaluator in run.evaluators:
    if evaluator["pred"] in meanings:
      rows[evaluator["name"]] = meanings[evaluator["pred"]]
  for name in run.score_names(*run.evaluators):
    if name in _METRICS:
      rows[name] = _METRICS[name]
    elif name.endswith(("_things", "_stuff")):
      rows["… _things, _stuff"] = ("the same over countable categories, such "
                                   "as cars, and over the others.")
    elif name.startswith("loss_at/"):
      rows["loss_at/…"] = ("the loss at one time of the noise: near 1 all is "
                           "noise, and ids cannot be known.")
  return list(rows.items())
