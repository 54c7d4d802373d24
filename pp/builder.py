"""The preprocessing language: `op|op(literal, key="x")|op` on dicts of tensors.

An op is made once from its literal arguments; then it is a pure function of an
example. Its random numbers come from the example's seed and from the op's
place in the string, so the result for an example depends on nothing else.
"""

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from uvim.registry import ConfigError, lookup, unknown

Data = dict[str, Any]

# The names that the listings of the paper's Appendix D use, and our modules.
MODULES = {
    "ops_clips": "pp.ops.clips",
    "ops_colors": "pp.ops.colors",
    "ops_general": "pp.ops.general",
    "ops_image": "pp.ops.image",
    "ops_normals": "pp.ops.normals",
    "proj.uvim.pp_ops": "pp.ops.labels",
}
_KEY_ARGS = ("key", "inkey", "outkey")
# What TensorFlow writes around a message: {{node …}}, [Op:…] and the name of an
# iterator.
_TENSORFLOW_NOISE = re.compile(
    r"\{\{.*?\}\}|\[Op:.*|Error in user-defined .*iterator: \S*: ")

# Characters that are shown of an error: TensorFlow may quote a whole record.
_MAX_MESSAGE = 300


class Op(NamedTuple):
  """An entry of the table of ops.

  Attributes:
    factory: makes the op's function of literal arguments.
    module: the module that defines it.
    on_key: if set, the function maps one tensor; this is its default key. Else
      it maps the example.
    random: whether the function also takes a seed, int64 [2].
  """
  factory: Callable[..., Callable]
  module: str
  on_key: str | None
  random: bool


class Call(NamedTuple):
  """One section of a preprocessing string.

  Attributes:
    name: of the op.
    args: its positional arguments.
    kwargs: its arguments by name.
    text: the section as it was written.
  """
  name: str
  args: tuple[Any, ...]
  kwargs: dict[str, Any]
  text: str


class Step(NamedTuple):
  """One op made ready.

  Attributes:
    name: of the op.
    text: the section as it was written.
    fn: (data, seed) → data.
  """
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
    # Only another module is a conflict. A module that is reloaded registers its
    # ops again.
    if name in OPS and OPS[name].module != factory.__module__:
      raise ValueError(f"Two ops are called {name!r}.")
    OPS[name] = Op(factory, factory.__module__, on_key, random)
    return factory

  return enter


def _sections(string: str) -> list[str]:
  """Splits at pipes outside of quotes; drops empty sections."""
  sections = [""]
  quote = ""  # The one that is open, if any.
  is_escaped = False
  # A split at every pipe would be wrong, since a string argument may hold one.
  # So this notes which quote is open, and skips what a backslash protects.
  for char in string:
    if char == "|" and not quote:
      sections.append("")
      continue
    sections[-1] += char
    if is_escaped:
      is_escaped = False
    elif quote and char == "\\":
      is_escaped = True
    elif char == quote:
      quote = ""
    elif char in "'\"" and not quote:
      quote = char
  stripped = [section.strip() for section in sections]
  return [section for section in stripped if section]


def _parse_call(text: str) -> Call:
  """Parses `name` or `name(literals)`.

  Raises:
    ConfigError: it is anything else.
  """
  not_a_call = "is not of the form name or name(arguments)"
  try:
    # Python parses the section, but nothing of it ever runs. So a config cannot
    # smuggle in code.
    node = ast.parse(text, mode="eval").body
  # The last two errors come from hundreds of nested brackets.
  except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
    raise ConfigError(not_a_call) from error
  if isinstance(node, ast.Name):
    return Call(node.id, (), {}, text)
  if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
    raise ConfigError(not_a_call)
  try:
    args = tuple(ast.literal_eval(argument) for argument in node.args)
    kwargs = _literal_kwargs(node.keywords)
  except (ValueError, TypeError, RecursionError) as error:
    raise ConfigError(
        "takes only literal arguments (numbers, strings, True, False, None, "
        "tuples and lists of these), each name once") from error
  return Call(node.func.id, args, kwargs, text)


def _literal_kwargs(keywords: Iterable[ast.keyword]) -> dict[str, Any]:
  """Arguments by name; a ValueError if one is no literal or comes twice."""
  kwargs = {}
  for keyword in keywords:
    # Python gives `**something` as a keyword without a name.
    if keyword.arg is None:
      raise ValueError("**")
    if keyword.arg in kwargs:
      raise ValueError(f"{keyword.arg} comes twice")
    kwargs[keyword.arg] = ast.literal_eval(keyword.value)
  return kwargs


def _where(position: int, text: str) -> str:
  """How a message names a section."""
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
  if modules is None:
    modules = MODULES
  paths = {lookup(MODULES, name, "pp_modules entry") for name in modules}
  for path in paths:
    importlib.import_module(path)  # Its ops enter OPS.
  return {name: op for name, op in OPS.items() if op.module in paths}


def _check_arguments(op: Op, call: Call) -> None:
  """Raises a ConfigError if the factory cannot be called like this."""
  signature = inspect.signature(op.factory)
  # An argument like *keys has no name that a string could use.
  known = [parameter.name for parameter in signature.parameters.values()
           if parameter.kind != parameter.VAR_POSITIONAL]
  # These are taken by the builder, not by the factory.
  key_args = _KEY_ARGS if op.on_key else ()
  known += key_args
  for name in call.kwargs:
    if name not in known:
      raise unknown("argument", name, known)
  kwargs = {name: value for name, value in call.kwargs.items()
            if name not in key_args}
  try:
    # Python itself tells whether the call fits, without making it.
    signature.bind(*call.args, **kwargs)
  except TypeError as error:
    listing = ", ".join(known) or "none"
    raise ConfigError(f"{error}. Known: {listing}.") from error


def _pop_keys(op: Op, kwargs: dict[str, Any]) -> tuple[str, str]:
  """Where an op on one tensor reads and writes; removes these arguments."""
  key = kwargs.pop("key", None)
  inkey = kwargs.pop("inkey", None)
  outkey = kwargs.pop("outkey", None)
  if key is not None and (inkey is not None or outkey is not None):
    raise ConfigError("give either key, or inkey and outkey.")
  for name in (key, inkey, outkey):
    if name is not None and not isinstance(name, str):
      raise ConfigError(f"a key is a string, not {name!r}.")
  default = key or op.on_key
  return inkey or default, outkey or default


def get(data: Data, key: str) -> Any:
  """`data[key]`; a ConfigError that shows the keys there are."""
  return lookup(data, key, "key of the example")


def first_line(error: Exception) -> str:
  """The first line of an error, without TensorFlow's node names."""
  if isinstance(error, ConfigError):
    return str(error)
  # The errors of TensorFlow keep their text in `message`.
  text = str(getattr(error, "message", "") or error)
  # TensorFlow quotes the bytes of a damaged record. They are no text, so Python
  # fails to make the error's text and raises this one instead.
  if isinstance(error, UnicodeDecodeError):
    text = bytes(error.object).decode(errors="replace")
  # What TensorFlow writes around a message ends its line here.
  text = _TENSORFLOW_NOISE.sub("\n", text)
  lines = [line.strip() for line in text.splitlines()]
  first = next(filter(None, lines), "")
  return f"{type(error).__name__}: {_readable(first)}"


def _readable(line: str) -> str:
  """A line for people: not too long, and without control characters."""
  if len(line) > _MAX_MESSAGE:
    line = f"{line[:_MAX_MESSAGE]}…"
  return "".join(char if char.isprintable() else "?" for char in line)


def _make_fn(op: Op, call: Call, position: int):
  """The step's `fn(data, seed)`."""
  kwargs = dict(call.kwargs)
  if op.on_key:
    inkey, outkey = _pop_keys(op, kwargs)
  function = op.factory(*call.args, **kwargs)

  def fn(data: Data, seed: tf.Tensor | None) -> Data:
    seeds = ()
    if op.random:
      if seed is None:
        raise ConfigError("is random and needs a seed.")
      # Two random ops of one string must not draw the same numbers.
      seeds = (tf.random.experimental.stateless_fold_in(seed, position),)
    if not op.on_key:
      # A copy, so that an op cannot change the input.
      return function(dict(data), *seeds)
    tensor = get(data, inkey)
    return {**data, outkey: function(tensor, *seeds)}

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
      # The name of the op then shows in the names of the graph.
      with tf.name_scope(call.name):
        return inner(data, seed)
    # TensorFlow has many errors for an op on the wrong kind of tensor.
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
    `preprocess(data, seed=None)` → data. `data` holds the tensors of one
    example by name; the seed is int64 [2], or None if no op is random. It
    works eagerly and inside tf.data, and does not change its input.
    `preprocess.steps` is the list of ops, `preprocess.string` the string.

  Raises:
    ConfigError: for a string that does not parse, an unknown module, op or
      argument; names the op, its place (from 1) and the nearest known name.
  """
  known = _known_ops(modules)
  steps = [_make_step(known, call, position)
           for position, call in enumerate(parse(string), 1)]

  # Autograph would wrap our errors, and it would rewrite ifs and loops that are
  # meant for Python.
  @tf.autograph.experimental.do_not_convert
  def preprocess(data: Data, seed: tf.Tensor | None = None) -> Data:
    data = dict(data)
    for step in steps:
      data = step.fn(data, seed)
    return data

  preprocess.string = string
  preprocess.steps = steps
  return preprocess
