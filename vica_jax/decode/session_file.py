"""A session's prefix on disk: one safetensors file, complete or not there at all.

The header says which weights, sizes and settings made it; a file of others is refused,
because its keys would answer with another model's memory of the video.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vica_jax.checkpoint.checksum import checksum
from vica_jax.data.example import bucket_length
from vica_jax.data.video import FrameSample
from vica_jax.decode.prompt import Seen
from vica_jax.decode.session import VideoSession
from vica_jax.decode.settings import AnswerSettings
from vica_jax.errors import InputError
from vica_jax.files import replacing
from vica_jax.models.cache import KV, Prefix
from vica_jax.models.quantize import Int8, MaybeInt8
from vica_jax.sharding import logical_sharding

if TYPE_CHECKING:
    from vica_jax.decode.assistant import Assistant

FORMAT = "vica_jax session 1"
PREFIX_AXES = ("kv_heads", "length", "head_dim")


class SessionFileError(InputError):
    """A file that holds no session, or one of another model."""


def save_session(session: VideoSession, path: str | os.PathLike[str]) -> None:
    """Write ``path``: filled slots of every layer and what is needed to go on."""
    sample = session.seen.sample
    tensors = {
        name: np.ascontiguousarray(np.asarray(array)[:, : session.length])
        for i, layer in enumerate(session.prefix.layers)
        for name, array in _named(i, layer)
    }
    header = {
        "format": FORMAT,
        "checksums": {name: checksum(array) for name, array in tensors.items()},
        **_identity(session.assistant, session.settings),
        "settings": asdict(session.settings),
        "chunks": session.chunks,
        "length": session.length,
        "seen": {
            "count": session.seen.count,
            "tokens": session.seen.tokens,
            "reader": session.seen.reader,
            "notes": session.seen.notes,
            "sample": sample
            and {
                "indices": sample.indices.tolist(),
                "times": sample.times.tolist(),
                "total_frames": sample.total_frames,
                "avg_fps": sample.avg_fps,
            },
        },
    }
    with replacing(path) as partial:
        save_file(tensors, partial, metadata={"session": json.dumps(header)})


def load_session(assistant: "Assistant", path: str | os.PathLike[str]) -> VideoSession:
    """The session in ``path``, on the assistant's devices.

    Raises:
      SessionFileError: no session file, a damaged one, or one of other weights, sizes,
        token ratio or dtype (of computing, or of keys and values).
    """
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            header = json.loads((file.metadata() or {}).get("session", "{}"))
            if header.get("format") != FORMAT:
                raise SessionFileError(
                    f"{path}: not a session of this version: open the video again"
                )
            settings = _settings(header["settings"])
            wanted = _identity(assistant, settings)
            for name, value in wanted.items():
                if header.get(name) != value:
                    raise SessionFileError(
                        f"{path}: made with {name} {_short(header.get(name))}, here "
                        f"it is {_short(value)}: open the video again"
                    )
            model, length = assistant.model(settings), header["length"]
            slots = bucket_length(length)

            def placed(name: str) -> jax.Array:
                array = file.get_tensor(name)
                if checksum(array) != header["checksums"][name]:
                    raise SessionFileError(
                        f"{path}: {name} is not what was written: open the video again"
                    )
                room = [(0, 0), (0, slots - length), (0, 0)][: array.ndim]
                array = np.pad(array, room)
                axes = PREFIX_AXES[: array.ndim]
                sharding = logical_sharding(axes, array.shape, assistant.mesh)
                return jax.device_put(array, sharding)

            def kept(name: str) -> MaybeInt8:
                if assistant.kv_dtype is None:
                    return placed(name)
                return Int8(placed(name), placed(f"{name}_scale"))

            with assistant.on_mesh():
                layers = [
                    (kept(f"layers.{i}.k"), kept(f"layers.{i}.v"))
                    for i in range(model.cfg.llm.depth)
                ]
        seen = header["seen"]
        sample = seen["sample"]
        if sample is not None:
            sample = FrameSample(
                indices=np.array(sample["indices"], np.int64),
                times=np.array(sample["times"], np.float64),
                total_frames=sample["total_frames"],
                avg_fps=sample["avg_fps"],
            )
        return VideoSession(
            assistant=assistant,
            model=model,
            settings=settings,
            seen=Seen(
                count=seen["count"],
                tokens=seen["tokens"],
                sample=sample,
                reader=seen["reader"],
                notes=tuple(seen["notes"]),
            ),
            chunks=tuple(map(tuple, header["chunks"])),
            length=length,
            prefix=Prefix(layers, jnp.int32(length)),
        )
    except InputError:  # says what is wrong already
        raise
    except FileNotFoundError:
        raise SessionFileError(f"{path}: no such session file") from None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise SessionFileError(
            f"{path}: the session cannot be read ({reason}): open the video again"
        ) from error


def _identity(assistant: "Assistant", settings: AnswerSettings) -> dict[str, Any]:
    """What must be the same here for the prefix to mean what it meant."""
    cfg = json.dumps(asdict(assistant.model(settings).cfg), sort_keys=True)
    return {
        "weights": assistant.fingerprint,
        "config": hashlib.sha256(cfg.encode()).hexdigest(),
        "dtype": assistant.dtype.name,
        "kv_dtype": assistant.kv_dtype,
    }


def _named(layer: int, kv: KV) -> Iterator[tuple[str, jax.Array]]:
    """The arrays of a layer's keys and values with their names in the file."""
    for name, kept in zip("kv", kv, strict=True):
        if isinstance(kept, Int8):
            yield f"layers.{layer}.{name}", kept.values
            yield f"layers.{layer}.{name}_scale", kept.scale
        else:
            yield f"layers.{layer}.{name}", kept


def _settings(values: dict[str, Any]) -> AnswerSettings:
    ratio = values["token_ratio"]
    return replace(
        AnswerSettings(**values | {"token_ratio": None, "options": ()}),
        token_ratio=None if ratio is None else tuple(ratio),
        options=tuple(values["options"]),
    )


def _short(value: Any) -> str:
    return str(value)[:12]
