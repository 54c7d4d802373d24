"""UViM: unified vision models with learned guiding codes, in JAX."""

__version__ = "0.2.0.dev0"
