"""ViCA and ViCA2, visuospatial video language models, in JAX.

    from vica_jax import Assistant
    assistant = Assistant.load("native-checkpoint")
    print(assistant.answer("room.mp4", "How many chairs are there?").text)

Names are imported when they are first used: ``import vica_jax.data`` brings no jax.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Answer": "vica_jax.decode.answer",
    "AnswerSettings": "vica_jax.decode.settings",
    "Assistant": "vica_jax.decode.assistant",
    "InputError": "vica_jax.errors",
    "Sampling": "vica_jax.decode.generate",
    "VARIANTS": "vica_jax.models.variants",
    "Vica": "vica_jax.models.vica",
    "VideoSession": "vica_jax.decode.session",
    "VicaConfig": "vica_jax.models.config",
    "VisualLayout": "vica_jax.layout",
    "enable_compilation_cache": "vica_jax.compilation_cache",
    "make_generate": "vica_jax.decode.generate",
    "make_mesh": "vica_jax.sharding",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vica_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return ["__version__", *_HOME]
