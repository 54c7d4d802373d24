"""Packaging: pip installs the package `uvim` and one command of that name.

Trainers, configs and tools run from a checkout. requirements.txt is the one
list of what the project needs; its headings are the extras.
"""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent


def read_requirements() -> dict[str, list[str]]:
  """{'base': […], 'data': […], …} from requirements.txt."""
  needs = {}
  heading = "base"
  for line in (ROOT / "requirements.txt").read_text().splitlines():
    line = line.strip()
    is_comment = line.startswith("#")
    if is_comment and ":" in line:
      heading = line.removeprefix("# ").split(":")[0]
    elif line and not is_comment:
      needs.setdefault(heading, []).append(line)
  return needs


def read_version() -> str:
  """`uvim.__version__`, without an import: JAX need not be installed yet."""
  text = (ROOT / "uvim" / "__init__.py").read_text()
  return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)[1]


requirements = read_requirements()
setuptools.setup(
    name="uvim",
    version=read_version(),
    description="UViM and learned guiding codes for vision, in JAX",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=setuptools.find_packages(include=["uvim", "uvim.*"]),
    package_data={
        "uvim": ["packs/*/*", "packs/*/*/*"],
        "uvim.explorer": ["*.html", "*.css", "*.js"],
    },
    entry_points={"console_scripts": ["uvim = uvim.cli.main:main"]},
    install_requires=requirements["base"],
    extras_require={
        "data": requirements["data"],
        "explorer": requirements["explorer"],
        "exr": requirements["exr"],
        "hub": requirements["hub"],
        "video": requirements["video"],
        "docs": requirements["docs"],
        "dev": requirements["dev"],
        # To watch a run. Both are optional, and no requirements of ours.
        "tensorboard": ["tensorboard"],
        "wandb": ["wandb"],
        "cuda12": ["jax[cuda12]"],
        "cuda13": ["jax[cuda13]"],
        "tpu": ["jax[tpu]"],
    },
)
