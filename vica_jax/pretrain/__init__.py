"""Training a small ViCA2 from nothing on generated rooms, with auxiliary losses.

The published models start from towers that others trained. The world's small model has
none, so every part of it first learns here; the stages of ``vica_jax.train`` follow.
"""
