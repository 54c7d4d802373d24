"""The layer rule: a file imports only from rows above its own."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
OURS = ("uvim", "pp", "evaluators", "trainers", "configs", "tools")
WORDS = {"uvim.registry", "uvim.typing", "uvim.tree"}
PARTS = {f"uvim.{name}" for name in (
    "config", "losses", "quantizer", "optim", "state", "sharding",
    "checkpoint", "npz")}


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


def allowed(module):
  """Prefixes of our own modules that `module` may import."""
  if module in WORDS:
    return WORDS
  if module in PARTS:
    return WORDS | PARTS
  if module.startswith("uvim.models"):
    return WORDS | PARTS | {"uvim.models"}
  if module.startswith("uvim.tasks"):
    return WORDS | PARTS | {"uvim.tasks"}
  if module.startswith("uvim"):
    return {"uvim"}
  if module.startswith("pp"):
    return {"pp", "uvim.registry"}
  if module.startswith("evaluators"):
    return WORDS | PARTS | {"evaluators", "pp"}
  if module.startswith("trainers"):
    return {"uvim", "pp", "evaluators", "trainers"}
  if module.startswith("configs"):
    return {"configs"}
  return {"uvim", "pp", "evaluators", "trainers", "tools"}


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
        rows = allowed(module)
        fits = any(f"{name}.".startswith(f"{row}.") or
                   f"{row}.".startswith(f"{name}.") and "." in name
                   for row in rows)
        # `from uvim import x` names uvim.x; a bare package says nothing.
        if not fits:
          bad.append(f"{module} imports {name}")
      for banned in BANNED.get(folder, ()):
        if f"{name}.".startswith(f"{banned}."):
          bad.append(f"{module} imports {name}")
  assert not bad, "\n".join(bad)


def test_only_main_touches_absl():
  users = {module_of(path) for folder in OURS
           for path in (ROOT / folder).rglob("*.py")
           for name, _ in imports(path) if name.startswith("absl")}
  assert {u for u in users if not u.startswith("tools.")} <= {"trainers.main"}


def test_uvim_works_without_tensorflow():
  code = """
import sys
for name in ("tensorflow", "tensorflow_datasets"):
  sys.modules[name] = None  # An import of it raises.
import pkgutil, importlib, uvim
for module in pkgutil.walk_packages(uvim.__path__, "uvim."):
  importlib.import_module(module.name)
import trainers.vqvae, trainers.lm
"""
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120,
                        capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
