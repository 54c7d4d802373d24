"""C1, C2, C7 and C8: a training step of each stage, run or only compiled.

Ours is the step of the train loop. The naive one differs from it in its loss
(tools/bench/naive.py) and takes Adafactor's means as optax does; the rest of
the optimizer and the dictionary are the same.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from tools.bench import measure, naive
from tools.bench.measure import Row, require, say
from tools.bench.sizes import LEAN_I, LEAN_II, SIZES, Size
from trainers import lm, step, vqvae
from uvim import tree
from uvim.codes import vq as quantizer
from uvim.codes.vq import Codebook
from uvim.config import resolve
from uvim.learn import optim

# Appendix D; of the schedule only that there is one matters.
_OPTIMIZER = dict(
    optax_name="scale_by_adafactor", optax=dict(beta2_cap=0.95), lr=4e-4,
    wd=4e-5, grad_clip_norm=1.0, total_steps=1000,
    schedule=dict(decay_type="cosine", warmup_steps=0))


class NaiveStageI(vqvae.VqvaeStage):
  """Stage I with one-hot labels, whole logits and kept attention scores."""

  def loss(self, params, codebook, frozen, batch, rngs_B):
    def drop(z_BLE):
      return quantizer.drop_code(rngs_B, z_BLE, self.model.code_dropout)

    loss, (x_BLE, code_BL) = naive.stage_i_loss(
        self.model, params, codebook, batch, drop)
    counts_Q, sums_QE = quantizer.statistics(
        x_BLE, code_BL, self.model.dict_size)
    return loss, step.Aux(counts_Q, sums_QE, {})


class NaiveStageII(lm.LmStage):
  """Stage II with one-hot targets and the naive oracle."""

  def loss(self, params, codebook, frozen, batch, rngs_B):
    if "code" in batch:
      code_BL = batch["code"]
    else:
      x_BLE = naive.encode(
          self.oracle.model, frozen["params"],
          naive.label_patches(self.oracle.model, batch["labels"]),
          batch["image"])
      code_BL = quantizer.lookup(frozen["codebook"], x_BLE)
    text_BL = jax.lax.stop_gradient(code_BL) + 1
    loss = naive.stage_ii_loss(self.model, params, batch["image"], text_BL)
    return loss, step.Aux(None, None, {})


@dataclasses.dataclass
class Problem:
  """What both sides train.

  Attributes:
    stage, naive_stage: which give the losses.
    init: key → state, of both.
    ours, naive: the steps, (state, frozen, batch) → (state, logs).
    frozen: the oracle of stage II.
  """
  stage: Any
  naive_stage: Any
  init: Any
  ours: Any
  naive: Any
  frozen: Any = None

  def abstract(self) -> tuple[Any, Any]:
    """Shapes of the state and of what is frozen."""
    state = jax.eval_shape(self.init, jax.random.PRNGKey(0))
    return state, jax.eval_shape(lambda: self.frozen)


def _problem(make_ours, make_naive, config, frozen=None) -> Problem:
  ours, plain = make_ours(config), make_naive(config)
  init, tx, _ = step.make_init(ours, config, config.total_steps)
  steps = [step.make_train_step(stage, tx, epoch_steps=1000)
           for stage in (ours, plain)]

  def naive_step(*args):
    with mock.patch.object(optim, "_mean", jnp.mean):  # While it is traced.
      return steps[1](*args)

  return Problem(ours, plain, init, steps[0], naive_step, frozen)


def stage_i(fields: Mapping[str, Any], batch_size: int) -> Problem:
  """A stage I problem for such a model."""
  config = resolve(dict(
      _OPTIMIZER, task="panoptic_segmentation", dataset="none",
      train_split="train", batch_size=batch_size, pp_train="",
      model_name="vit", model=dict(fields)))
  return _problem(vqvae.VqvaeStage, NaiveStageI, config)


def stage_ii(fields: Mapping[str, Any], oracle: Mapping[str, Any],
             batch_size: int, *, empty: bool = False) -> Problem:
  """A stage II problem; `empty`: with the shapes of an oracle only."""
  first = stage_i(oracle, batch_size)

  shapes, _ = first.abstract()
  frozen = {"params": shapes.params, "codebook": shapes.codebook}
  if not empty:
    frozen = {"params": drawn(shapes.params, seed=2),
              "codebook": _codebook(shapes.codebook)}
  config = resolve(dict(
      _OPTIMIZER, dataset="none", train_split="train", batch_size=batch_size,
      pp_train="", model_name="lm", model=dict(fields),
      oracle=dict(task="panoptic_segmentation", model_init="in memory",
                  model_name="vit", model=dict(oracle))))
  # The oracle is drawn here instead of being loaded from a file.
  with mock.patch.object(lm, "load_oracle", lambda *_: frozen):
    return _problem(lm.LmStage, NaiveStageII, config, frozen)


def make_batch(fields: Mapping[str, Any], batch_size: int) -> dict[str, Any]:
  """Noise with blocky labels, some of them void; host arrays."""
  rng = np.random.default_rng(0)
  height, width = fields["input_size"]
  size = (batch_size, height // 8, width // 8)
  blocks = np.stack([rng.integers(0, fields["inputs"][key][0], size)
                     for key in ("semantics", "instances")], -1)
  labels = blocks.repeat(8, 1).repeat(8, 2).astype(np.int32)
  image = rng.uniform(-1, 1, (batch_size, height, width, 3))
  return {"image": image.astype(np.float32), "labels": labels}


def drawn(shapes, seed: int = 1):
  """Parameters of a model as noise, the heads too: from their zeros most
  gradients are zeros, and anything would agree."""
  rng = np.random.default_rng(seed)
  out = {}
  for name, x in sorted(tree.flatten(shapes).items()):
    if name.endswith(("bias", "scale")):
      out[name] = np.full(x.shape, name.endswith("scale"), x.dtype)
      continue
    # Heads of attention and classes are axes of what comes out.
    split_out = any(part in name for part in ("query", "key", "value", "head_"))
    fan_in = len(x) if split_out else x.size // x.shape[-1]
    out[name] = np.asarray(
        rng.normal(size=x.shape, scale=fan_in ** -0.5), x.dtype)
  return tree.unflatten(out)


def _codebook(shapes):
  if shapes is None:
    return None
  rng = np.random.default_rng(3)
  return Codebook(
      rng.normal(size=shapes.dictionary.shape).astype(np.float32),
      np.ones(shapes.counts.shape, np.float32))


def first_state(problem: Problem):
  """A state before the first step, on the host."""
  shapes, _ = problem.abstract()
  # Whatever else an optimizer keeps starts from zeros.
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  return zeros.replace(params=drawn(shapes.params),
                       codebook=_codebook(shapes.codebook))


def measured(name: str, problem: Problem, batch: Mapping[str, Any],
             size: Size) -> Row:
  """Compiles, compares and times both steps."""
  runs = compared(name, problem, batch, size.tolerance)
  peak = measure.ceiling(size.dtype, size.ceiling)
  times = measure.alternate(*runs, repeats=size.repeats)
  return measure.timed_row(
      name, times, items=len(batch["image"]), unit="images/s",
      programs=tuple(run.program for run in runs), ceiling_flops=peak)


def compared(name: str, problem: Problem, batch: Mapping[str, Any],
             tolerance: float, *, to_run: bool = True) -> list["_Stepper"]:
  """Compiles both steps and runs each once; raises Disagree, see `compare`."""
  start = first_state(problem)
  batch = jax.device_put(dict(batch))
  runs, results = [], []
  for side, fn in (("ours", problem.ours), ("naive", problem.naive)):
    program = measure.compiled(
        fn, start, problem.frozen, batch, what=f"{name} {side}", donate=(0,),
        to_run=to_run)
    # Copied: what is donated must not be the host's own memory.
    state = jax.tree.map(jnp.array, start)
    run = _Stepper(program, state, problem.frozen, batch)
    run()
    runs.append(run)
    results.append(jax.device_get((run.state, run.logs)))
  compare(name, start, *results, tolerance=tolerance)
  return runs


class _Stepper:
  """A training step to be called again and again."""

  def __init__(self, program, state, *rest):
    self.program, self.state, self.rest = program, state, rest

  def __call__(self):
    self.state, self.logs = jax.block_until_ready(
        self.program.call(self.state, *self.rest))


def compare(name, start, ours, theirs, *, tolerance) -> None:
  """Raises Disagree unless loss, gradient and every update are the same.

  An update is compared as a whole array, since Adafactor makes an element of
  rounding noise as large as any other. That is all there is in the biases of
  keys, to which a softmax is blind: they are left out.
  """
  (new, logs), (new_naive, logs_naive) = ours, theirs
  worst = {key: measure.relative_error(logs[key], logs_naive[key])
           for key in ("loss", "grad_norm")}

  def changes(state):
    flat = tree.flatten({"params": state.params, "codebook": _plain(state)})
    before = tree.flatten({"params": start.params, "codebook": _plain(start)})
    return {key: np.asarray(x) - np.asarray(before[key])
            for key, x in flat.items() if not key.endswith("key/bias")}

  mine, other = changes(new), changes(new_naive)
  for key, change in mine.items():
    worst[key] = measure.relative_error(change, other[key])
  key = max(worst, key=worst.get)
  require(worst[key] < tolerance,
          f"{name}: {key} differs by {worst[key]:.2g} of its size.")
  say(f"{name}: loss {float(logs['loss']):.6f} and {len(mine)} updates agree; "
      f"largest relative difference {worst[key]:.1e} ({key})")


def _plain(state):
  codebook = state.codebook
  return dataclasses.asdict(codebook) if isinstance(codebook, Codebook) else {}


def c1(size: Size) -> Iterator[Row]:
  """Stage I training step."""
  yield measured("C1", stage_i(size.stage_i, size.batch_i),
                 make_batch(size.stage_i, size.batch_i), size)


def c2(size: Size) -> Iterator[Row]:
  """Stage II training step, with the oracle in it and with codes given."""
  problem = stage_ii(size.stage_ii, size.stage_i, size.batch_ii)
  batch = make_batch(size.stage_i, size.batch_ii)
  yield measured("C2", problem, batch, size)
  code = np.random.default_rng(2).integers(
      0, size.stage_i["dict_size"], (size.batch_ii, size.stage_ii["seq_len"]))
  given = {"image": batch["image"], "code": code.astype(np.int32)}
  yield measured("C2 codes given", problem, given, size)


def c7(size: Size) -> Iterator[Row]:
  """Memory of the paper's stage I step; that both sides agree is seen on a
  small model with the same switches."""
  tiny = SIZES["tiny"]
  if size != tiny:
    compared("C7 in small", stage_i(tiny.stage_i | LEAN_I, tiny.batch_i),
             make_batch(tiny.stage_i, tiny.batch_i), tiny.tolerance,
             to_run=False)
  batch_size = size.batch_paper
  ours = stage_i(size.paper_i | LEAN_I, batch_size)
  yield _ahead("C7", ours, lambda *share: stage_i(
      _shallow(size.paper_i, *share), batch_size), _shapes(size.paper_i,
                                                           batch_size),
               size.paper_i)


def c8(size: Size) -> Iterator[Row]:
  """Memory of the paper's stage II step, codes given."""
  tiny = SIZES["tiny"]
  if size != tiny:
    compared("C8 in small",
             stage_ii(tiny.stage_ii | LEAN_II, tiny.stage_i | LEAN_I,
                      tiny.batch_ii),
             make_batch(tiny.stage_i, tiny.batch_ii), tiny.tolerance,
             to_run=False)
  batch_size = size.batch_paper
  ours = stage_ii(size.paper_ii | LEAN_II, size.paper_i | LEAN_I, batch_size,
                  empty=True)

  def make_naive(*share):
    return stage_ii(_shallow(size.paper_ii, *share), size.paper_i, batch_size,
                    empty=True)

  code = jax.ShapeDtypeStruct((batch_size, size.paper_ii["seq_len"]),
                              jnp.int32)
  image = _shapes(size.paper_i, batch_size)["image"]
  # It stands for an accelerator, which does not take the batch in halves.
  with mock.patch.object(lm, "_in_halves", lambda *_: False):
    yield _ahead("C8", ours, make_naive, {"image": image, "code": code},
                 size.paper_ii)


def _shapes(fields, batch_size):
  def array(dtype, channels):
    return jax.ShapeDtypeStruct(
        (batch_size, *fields["input_size"], channels), dtype)

  return {"image": array(jnp.float32, 3), "labels": array(jnp.int32, 2)}


_DEPTHS = ("oracle_depth", "base_model_depth", "num_layers")


def _shallow(fields, part, parts):
  """The fields of a model with part/parts of its layers."""
  return dict(fields) | {key: fields[key] * part // parts for key in _DEPTHS
                         if key in fields}


def _ahead(name, ours, make_naive, batch, *fields) -> Row:
  """Both steps compiled, but not run.

  The naive program of a deep model takes minutes to compile. It is compiled
  with a fraction of the layers and with twice as many, and continued in a
  straight line, since what it keeps and computes is a sum over layers.

  Args:
    name: of the row.
    ours: our problem, in full.
    make_naive: (part, parts) → the problem with this share of the layers.
    batch: shapes.
    *fields: of the models, for their depths.
  """
  def program(problem, fn, what):
    return measure.compiled(fn, *problem.abstract(), batch, donate=(0,),
                            what=f"{name} {what}", to_run=False)

  row = Row(name, "bytes", 0)
  measure.add_program(row, "ours", program(ours, ours.ours, "ours"))
  parts = math.gcd(*(some[key] for some in fields for key in _DEPTHS
                     if key in some))
  shares = (1, 2) if parts > 2 else (parts,)
  some = []
  for share in shares:
    problem = make_naive(share, parts)
    some.append(program(problem, problem.naive,
                        f"naive, {share}/{parts} of the layers"))
  measure.add_program(row, "naive", measure.extrapolated(
      *some, steps=parts - 1) if parts > 2 else some[0])
  row.ours, row.naive = row.temp_bytes_ours, row.temp_bytes_naive
  row.ratio = row.naive / row.ours
  return row
