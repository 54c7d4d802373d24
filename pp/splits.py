"""Who reads a data set: TensorFlow, or numpy alone where it was prepared."""

from types import ModuleType

ARRAYS = "arrays:"


def modules(dataset: str) -> tuple[ModuleType, ModuleType]:
  """(module of the batches, module of the sources) for a data set's name.

  The first has `make_preprocess`, `train_batches` and `eval_batches`, the
  second `make_source`, with the arguments of pp.stream and pp.sources.

  Args:
    dataset: 'arrays:DIR' for what tools.cache_arrays wrote, which needs no
      TensorFlow; anything else is a TFDS name.
  """
  if dataset.startswith(ARRAYS):
    from pp import arrays
    return arrays, arrays
  from pp import sources
  from pp import stream as pipeline
  return pipeline, sources
