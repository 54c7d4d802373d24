"""Packaging. requirements.txt is the one list; its headings are the extras."""

import pathlib

import setuptools

ROOT = pathlib.Path(__file__).parent


def sections() -> dict[str, list[str]]:
  """{'base': […], 'data': […], 'dev': […]} from requirements.txt."""
  out, name = {}, "base"
  for line in (ROOT / "requirements.txt").read_text().splitlines():
    if line.startswith("# ") and ":" in line:
      name = line[2:].split(":")[0]
    elif line.strip() and not line.startswith("#"):
      out.setdefault(name, []).append(line.strip())
  return out


needs = sections()
setuptools.setup(
    name="uvim",
    version="0.1.0",
    description="UViM and learned guiding codes for vision, in JAX",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=setuptools.find_packages(
        include=["uvim*", "pp*", "evaluators*", "trainers*", "configs*",
                 "tools*"]),
    package_data={"tools.explorer": ["*.html"]},
    install_requires=needs["base"],
    extras_require={
        "data": needs["data"],
        "explorer": needs["explorer"],
        "dev": needs["dev"],
        # Watching a run; both optional, neither among the requirements.
        "tensorboard": ["tensorboard"],
        "wandb": ["wandb"],
        "cuda12": ["jax[cuda12]"],
        "cuda13": ["jax[cuda13]"],
        "tpu": ["jax[tpu]"],
    },
)
