"""From files to a ``Batch``: videos, images, prompts. Imports no jax."""
