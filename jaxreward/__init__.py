"""Train reward models and align visual generators with them, in JAX."""

__version__ = "0.1.0"
