"""The name under which a Hiera's features are cached (``data/features``)."""

import hashlib
import json
import os

from vica_jax.checkpoint import fingerprint
from vica_jax.config import plain
from vica_jax.models.config import HieraConfig


def hiera_hash(base: str | os.PathLike[str], hiera: HieraConfig, dtype: str) -> str:
    """Names Hiera's weights, its configuration and the dtype it runs in."""
    weights = fingerprint(base, "hiera/")
    text = json.dumps([weights, plain(hiera), dtype])
    return hashlib.sha256(text.encode()).hexdigest()
