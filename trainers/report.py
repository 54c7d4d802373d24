"""What a run tells the world: metrics.jsonl, TensorBoard, a progress line."""

import json
import os
import pathlib
import sys
import time

import numpy as np


class Reporter:
  """Writes scalars and pictures of one run, and prints its progress.

  `metrics.jsonl` has one object per report: {"step": k, "name": value, …};
  that of an evaluator has its "settings" too: temperature, seed, min_fraction….
  On resume the lines after the restored step are dropped, so that the file of
  a run that was killed reads like that of one that was not.
  """

  def __init__(self, workdir, *, start_step: int, total_steps: int,
               batch_size: int):
    """Opens the files of `workdir`; all other arguments are counts."""
    from tensorboardX import SummaryWriter
    self.workdir = pathlib.Path(workdir)
    self._path = self.workdir / "metrics.jsonl"
    self._drop_after(start_step)
    self._file = open(self._path, "a")
    self._board = SummaryWriter(
        str(self.workdir / "tensorboard"), purge_step=start_step)
    self._total_steps = total_steps
    self._batch_size = batch_size
    self._last = (start_step, time.time())

  def _drop_after(self, step: int) -> None:
    if not self._path.exists():
      return
    kept = []
    for line in self._path.read_text().splitlines():
      try:
        if json.loads(line)["step"] <= step:
          kept.append(line)
      except (ValueError, KeyError):
        continue  # The line the kill cut short.
    new = self._path.with_suffix(".tmp")
    new.write_text("".join(line + "\n" for line in kept))
    os.replace(new, self._path)

  def scalars(self, step: int, values: dict[str, float],
              settings: dict | None = None) -> None:
    """Records `values` (name → number) at `step`, and how they were made."""
    values = {k: float(v) for k, v in values.items()}
    line = {"step": step, **values}
    if settings is not None:
      line["settings"] = settings
    self._file.write(json.dumps(line) + "\n")
    self._file.flush()
    for name, value in values.items():
      self._board.add_scalar(name, value, step)

  def progress(self, step: int, loss: float) -> None:
    """Prints 'step, loss, images/s, time left' for the steps since last."""
    then_step, then = self._last
    now = time.time()
    self._last = (step, now)
    rate = (step - then_step) / max(now - then, 1e-9)
    left = (self._total_steps - step) / max(rate, 1e-9)
    self.say(f"step {step}/{self._total_steps}  loss {loss:.4f}  "
             f"{rate * self._batch_size:.0f} img/s  "
             f"{int(left) // 60}:{int(left) % 60:02d} left")

  def pause(self, step: int) -> None:
    """Restarts the clock of `progress`: time spent elsewhere is not ours."""
    self._last = (step, time.time())

  def image(self, step: int, name: str, image_HWC: np.ndarray) -> None:
    """Writes a uint8 picture to TensorBoard and `pictures/NAME_STEP.png`."""
    from PIL import Image
    self._board.add_image(name, image_HWC, step, dataformats="HWC")
    folder = self.workdir / "pictures"
    folder.mkdir(exist_ok=True)
    Image.fromarray(image_HWC).save(folder / f"{name}_{step:07d}.png")

  def say(self, text: str) -> None:
    print(text, file=sys.stderr, flush=True)

  def close(self) -> None:
    self._file.close()
    self._board.close()


def panel(columns: dict[str, np.ndarray], *, rows: int = 6,
          scale_to: int = 128) -> np.ndarray:
  """Lays out pictures as a titled grid: a row per example, a column per name.

  Args:
    columns: title → uint8 [B, H, W, 3]; sizes may differ between columns.
    rows: at most so many examples.
    scale_to: side of a cell in pixels (nearest resize).

  Returns:
    uint8 [height, width, 3].
  """
  from PIL import Image, ImageDraw
  rows = min(rows, *(len(images) for images in columns.values()))
  gap, top = 4, 16
  cell = scale_to + gap
  sheet = Image.new("RGB", (cell * len(columns) + gap,
                            cell * rows + gap + top), (255, 255, 255))
  draw = ImageDraw.Draw(sheet)
  for c, (title, images) in enumerate(columns.items()):
    draw.text((gap + c * cell, 2), title, fill=(0, 0, 0))
    for r in range(rows):
      picture = Image.fromarray(np.asarray(images[r])).resize(
          (scale_to, scale_to), Image.Resampling.NEAREST)
      sheet.paste(picture, (gap + c * cell, top + gap + r * cell))
  return np.asarray(sheet)
