"""What a checkpoint of Pix2Seq-D holds: the model and its averaged parameters.

Only the workdir of a run and a pack tell the fields of the network.
"""

from uvim import finder
from uvim.models import make_model
from uvim.models.pix2seq_d import Pix2SeqD
from uvim.registry import ConfigError
from uvim.store import open_model, published
from uvim.store.open_model import OpenModel, Path
from uvim.tasks import make_task
from uvim.tasks.panoptic import fields_of_pixels

# Kind of the family; see `trainers.families`.
PIX2SEQ_D = "pix2seq_d"


def open_pix2seq_d(path: Path) -> OpenModel:
  """Opens a run of Pix2Seq-D, or a pack of one.

  Where a run averages its parameters, these are the average.

  Args:
    path: workdir, pack, or 'hf:OWNER/NAME' for a pack of the hub.

  Raises:
    ConfigError: nothing there, a run of another kind, arrays of another
      network.
  """
  path = published.locate_pack(finder.expand(path))
  config = open_model.read_config(path)
  kind = config.get("kind")
  if kind != PIX2SEQ_D:
    found = "no run's workdir and no pack"
    if kind is not None:
      found = f"a run of kind {kind!r}"
    raise ConfigError(f"{path} is {found}; a run of kind {PIX2SEQ_D!r} or a "
                      "pack of one is needed.")
  model_fields = open_model.value_of(config, "model", path)
  model: Pix2SeqD = make_model(
      PIX2SEQ_D, model_fields, "the checkpoint's model")
  arrays = published.load_params(path, kind=PIX2SEQ_D)
  open_model.check_arrays(
      path, arrays, lambda rng: {"params": model.init(rng)})
  network = model.network
  task = make_task(
      open_model.value_of(config, "task", path),
      fields_of_pixels(network.sizes, network.mask_size),
      **config.get("task_options", {}))
  dataset = config.get("dataset", "")
  return OpenModel(
      task=task,
      model=model,
      arrays=arrays,
      antialias=open_model.resizes_with_antialias(config),
      dataset=dataset,
      preprocessing=config.get("pp_eval") or "",
      categories=open_model.categories_of(path, task.num_categories, dataset))
