"""vica_jax: ViCA and ViCA2 in JAX."""

__version__ = "0.1.0"
