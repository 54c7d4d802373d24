"""The preprocessing language: `op|op(literal, key="x")|op` on dicts of tensors.

An op is made once from its literal arguments and is then a pure function of
an example. What is random about it comes from the example's seed and the op's
place in the string, so an example's result depends on nothing else.
"""

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from uvim.registry import ConfigError, lookup, nearest

Data = dict[str, Any]

# The names the listings of the paper's Appendix D use, and where ours live.
MODULES = {
    "ops_general": "pp.ops.general",
    "ops_image": "pp.ops.image",
    "ops_normals": "pp.ops.normals",
    "proj.uvim.pp_ops": "pp.ops.labels",
}
_KEY_ARGS = ("key", "inkey", "outkey")


class Op(NamedTuple):
  """An entry of the table of ops."""
  factory: Callable[..., Callable]  # literal arguments → function
  module: str
  on_key: str | None  # if set, the function maps a tensor; its default key
  random: bool        # if set, the function also takes a seed, int64 [2]


class Call(NamedTuple):
  """One section of a preprocessing string."""
  name: str
  args: tuple[Any, ...]
  kwargs: dict[str, Any]
  text: str


class Step(NamedTuple):
  """One op made ready: `fn(data, seed)` → data."""
  name: str
  text: str
  fn: Callable[[Data, tf.Tensor | None], Data]


OPS: dict[str, Op] = {}


def register(*, on_key: str | None = None, random: bool = False):
  """Enters a factory into OPS under its own name.

  Args:
    on_key: the op maps one tensor to one tensor. It is read from and written
      to this key unless the string says `key`, or `inkey` and `outkey`.
    random: the op's function takes a seed, int64 [2], as its last argument.
  """
  def enter(factory: Callable[..., Callable]) -> Callable[..., Callable]:
    name = factory.__name__
    if name in OPS and OPS[name].module != factory.__module__:
      raise ValueError(f"Two ops are called {name!r}.")
    OPS[name] = Op(factory, factory.__module__, on_key, random)
    return factory
  return enter


def _sections(string: str) -> list[str]:
  """Splits at pipes outside quotes; drops empty sections."""
  parts, start, quote, escaped = [], 0, "", False
  for i, char in enumerate(string):
    if escaped:
      escaped = False
    elif quote:
      escaped = char == "\\"
      quote = "" if char == quote else quote
    elif char in "'\"":
      quote = char
    elif char == "|":
      parts.append(string[start:i])
      start = i + 1
  parts.append(string[start:])
  return [part.strip() for part in parts if part.strip()]


def _parse_call(text: str) -> Call:
  """`name` or `name(literals)`; anything else is a ConfigError."""
  try:
    node = ast.parse(text, mode="eval").body
  # The last two: hundreds of brackets.
  except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
    raise ConfigError("is not of the form name or name(arguments)") from error
  if isinstance(node, ast.Name):
    return Call(node.id, (), {}, text)
  if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
    raise ConfigError("is not of the form name or name(arguments)")
  try:
    args = tuple(ast.literal_eval(arg) for arg in node.args)
    kwargs = {}
    for pair in node.keywords:
      if pair.arg is None or pair.arg in kwargs:
        raise ValueError("** or the same name twice")
      kwargs[pair.arg] = ast.literal_eval(pair.value)
  except (ValueError, TypeError, RecursionError) as error:
    raise ConfigError(
        "takes only literal arguments (numbers, strings, True, False, None, "
        "tuples and lists of these), each name once") from error
  return Call(node.func.id, args, kwargs, text)


def _where(position: int, text: str) -> str:
  return f"preprocessing op {position} {text!r}"


def parse(string: str) -> list[Call]:
  """The calls of a preprocessing string, in order.

  Empty sections are skipped and pipes inside quotes survive. Arguments are
  literals and never evaluated.

  Raises:
    ConfigError: names the section, its place (from 1) and what is wrong.
  """
  if not isinstance(string, str):
    raise ConfigError(f"A preprocessing string is a str, not {string!r}.")
  calls = []
  for position, text in enumerate(_sections(string), 1):
    try:
      calls.append(_parse_call(text))
    except ConfigError as error:
      raise ConfigError(f"{_where(position, text)}: {error}.") from error
  return calls


def _known_ops(modules: Iterable[str] | None) -> Mapping[str, Op]:
  """The ops of the named modules (None: of all), imported on first use."""
  if isinstance(modules, str):
    raise ConfigError(f"pp_modules is a list of names, not {modules!r}.")
  names = MODULES if modules is None else modules
  paths = {lookup(MODULES, name, "pp_modules entry") for name in names}
  for path in paths:
    importlib.import_module(path)
  return {name: op for name, op in OPS.items() if op.module in paths}


def _check_arguments(op: Op, call: Call) -> None:
  """ConfigError if the factory cannot be called like this."""
  signature = inspect.signature(op.factory)
  extra = _KEY_ARGS if op.on_key else ()
  known = [p.name for p in signature.parameters.values()
           if p.kind != p.VAR_POSITIONAL] + list(extra)
  for name in call.kwargs:
    if name not in known:
      near = nearest(name, known)
      hint = f" Did you mean {near!r}?" if near else ""
      raise ConfigError(f"unknown argument {name!r}.{hint} Known: "
                        f"{', '.join(known) or 'none'}.")
  kwargs = {k: v for k, v in call.kwargs.items() if k not in extra}
  try:
    signature.bind(*call.args, **kwargs)
  except TypeError as error:
    raise ConfigError(f"{error}. Known: {', '.join(known) or 'none'}.") \
        from error


def _keys(op: Op, kwargs: dict[str, Any]) -> tuple[str, str]:
  """Where an op on one tensor reads and writes; removes these arguments."""
  key, inkey, outkey = (kwargs.pop(name, None) for name in _KEY_ARGS)
  if key is not None and (inkey is not None or outkey is not None):
    raise ConfigError("give either key, or inkey and outkey.")
  for name in (key, inkey, outkey):
    if name is not None and not isinstance(name, str):
      raise ConfigError(f"a key is a string, not {name!r}.")
  return inkey or key or op.on_key, outkey or key or op.on_key


def get(data: Data, key: str) -> Any:
  """`data[key]`; a ConfigError that shows the keys there are."""
  return lookup(data, key, "key of the example")


def first_line(error: Exception) -> str:
  """The first line of an error, without TensorFlow's node names."""
  if isinstance(error, ConfigError):
    return str(error)
  text = str(getattr(error, "message", "") or error)
  text = re.sub(r"\{\{.*?\}\}|\[Op:.*|Error in user-defined .*iterator: \S*: ",
                "\n", text)
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _make_fn(op: Op, call: Call, position: int):
  """The step's `fn(data, seed)`."""
  kwargs = dict(call.kwargs)
  inkey, outkey = _keys(op, kwargs) if op.on_key else (None, None)
  core = op.factory(*call.args, **kwargs)

  def fn(data: Data, seed: tf.Tensor | None) -> Data:
    extra = ()
    if op.random:
      if seed is None:
        raise ConfigError("is random and needs a seed.")
      # Two random ops of one string must not draw the same numbers.
      extra = (tf.random.experimental.stateless_fold_in(seed, position),)
    if op.on_key:
      return {**data, outkey: core(get(data, inkey), *extra)}
    return core(dict(data), *extra)

  return fn


def _make_step(known: Mapping[str, Op], call: Call, position: int) -> Step:
  """Looks an op up, checks its arguments and makes it."""
  where = _where(position, call.text)
  try:
    op = lookup(known, call.name, "op")
    _check_arguments(op, call)
    inner = _make_fn(op, call, position)
  except Exception as error:  # Arguments may be anything that is a literal.
    raise ConfigError(f"{where}: {first_line(error)}") from error

  def fn(data: Data, seed: tf.Tensor | None = None) -> Data:
    try:
      with tf.name_scope(call.name):
        return inner(data, seed)
    except ConfigError as error:
      raise ConfigError(f"{where}: {error}") from error
    # An op on the wrong kind of tensor: TensorFlow has many ways to say so.
    except Exception as error:
      raise ConfigError(f"{where}: {first_line(error)}") from error

  return Step(call.name, call.text, fn)


def build(string: str, modules: Iterable[str] | None = None
          ) -> Callable[..., Data]:
  """Makes the function of a preprocessing string.

  Args:
    string: e.g. 'decode|resize(512)|value_range(-1, 1)|keep("image")'.
    modules: which tables of ops to use, names of MODULES; None: all.

  Returns:
    `preprocess(data, seed=None)` → data, for tensors by name of one example
    and its seed, int64 [2] (None will do if no op is random). It works eagerly
    and inside tf.data, and leaves its input as it is. `preprocess.steps` is
    the list of ops, and `preprocess.string` the string.

  Raises:
    ConfigError: for a string that does not parse, an unknown module, op or
      argument; names the op, its place (from 1) and the nearest known name.
  """
  known = _known_ops(modules)
  steps = [_make_step(known, call, position)
           for position, call in enumerate(parse(string), 1)]

  # Autograph would wrap our errors and rewrite Python we mean as Python.
  @tf.autograph.experimental.do_not_convert
  def preprocess(data: Data, seed: tf.Tensor | None = None) -> Data:
    data = dict(data)
    for step in steps:
      data = step.fn(data, seed)
    return data

  preprocess.string = string
  preprocess.steps = steps
  return preprocess
