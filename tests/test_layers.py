"""The layer rule: a file imports only from rows above its own."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
OURS = ("uvim", "pp", "evaluators", "trainers", "configs", "tools")

# One row for each layer, lowest first: a file imports from its own row and from
# rows above it in this list.
WORDS = ("uvim.registry", "uvim.typing", "uvim.tree", "uvim.fields",
         "uvim.files", "uvim.progress", "uvim.categories", "uvim.resize",
         "uvim.pixels", "uvim.finder", "uvim.opener", "uvim.lock",
         "uvim.schema", "uvim.palette")
PARTS = ("uvim.nn", "uvim.codes", "uvim.learn", "uvim.diffusion", "uvim.config")
IDEAS = ("uvim.models", "uvim.priors", "uvim.encoders", "uvim.tasks",
         "uvim.store", "uvim.inference")
FRONTS = ("uvim.explorer", "uvim.cli")
# Networks know nothing of tasks, and tasks know nothing of networks.
STRANGERS = {
    "uvim.models": ("uvim.tasks", "uvim.store", "uvim.inference"),
    "uvim.priors": ("uvim.tasks", "uvim.store", "uvim.inference"),
    "uvim.encoders": ("uvim.tasks", "uvim.store", "uvim.inference"),
    "uvim.tasks": ("uvim.models", "uvim.priors", "uvim.encoders",
                   "uvim.store", "uvim.inference"),
    "uvim.store": ("uvim.inference",),
}


def imports(path):
  """(module, is at top level) for every import of a file."""
  tree = ast.parse(path.read_text())
  top = set(map(id, tree.body))
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield alias.name, id(node) in top
    elif isinstance(node, ast.ImportFrom):
      for alias in node.names:
        yield f"{node.module}.{alias.name}", id(node) in top


def module_of(path):
  return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def is_below(module, prefixes):
  """Whether `module` is one of `prefixes` or lies inside one of them."""
  return any(f"{module}.".startswith(f"{prefix}.") for prefix in prefixes)


def allowed(module):
  """Prefixes of our own modules that `module` may import."""
  if is_below(module, WORDS):
    return WORDS
  if is_below(module, PARTS):
    return WORDS + PARTS
  if is_below(module, IDEAS):
    return WORDS + PARTS + IDEAS
  if is_below(module, ("uvim",)):
    return ("uvim",)
  if is_below(module, ("pp",)):
    return ("pp",) + WORDS
  if is_below(module, ("evaluators",)):
    return WORDS + PARTS + ("evaluators", "pp")
  if is_below(module, ("trainers",)):
    return ("uvim", "pp", "evaluators", "trainers")
  if is_below(module, ("configs",)):
    return ("configs",)
  return ("uvim", "pp", "evaluators", "trainers", "tools")


def forbidden(module):
  """Prefixes that the layers would allow and that `module` still avoids."""
  return [stranger for room, strangers in STRANGERS.items()
          if is_below(module, (room,)) for stranger in strangers]


# Libraries that a folder must not touch at all, not even in a function.
BANNED = {
    "uvim": ("tensorflow", "tensorflow_datasets", "absl"),
    "pp": ("jax", "absl.flags"),
    "evaluators": ("absl",),
    "configs": ("jax", "tensorflow", "numpy"),
}


@pytest.mark.parametrize("folder", OURS)
def test_imports_only_from_rows_above(folder):
  bad = []
  for path in sorted((ROOT / folder).rglob("*.py")):
    module = module_of(path)
    for name, _ in imports(path):
      if name.split(".")[0] in OURS:
        # `from uvim import tree` names uvim.tree; a bare package, as in
        # `from pp import …`, says nothing by itself.
        rows = allowed(module)
        fits = is_below(name, rows) or "." in name and any(
            is_below(row, (name,)) for row in rows)
        if not fits or is_below(name, forbidden(module)):
          bad.append(f"{module} imports {name}")
      for banned in BANNED.get(folder, ()):
        if f"{name}.".startswith(f"{banned}."):
          bad.append(f"{module} imports {name}")
  assert not bad, "\n".join(bad)


def test_only_the_config_file_touches_absl():
  users = {module_of(path) for folder in OURS
           for path in (ROOT / folder).rglob("*.py")
           for name, _ in imports(path) if name.startswith("absl")}
  allowed_users = {"trainers.config_file"}
  assert {u for u in users if not u.startswith("tools.")} <= allowed_users


def test_uvim_works_without_tensorflow():
  code = """
import sys
for name in ("tensorflow", "tensorflow_datasets"):
  sys.modules[name] = None  # An import of it raises.
import pkgutil, importlib, uvim
for module in pkgutil.walk_packages(uvim.__path__, "uvim."):
  importlib.import_module(module.name)
import trainers.families.vqvae, trainers.families.lm
"""
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120,
                        capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
