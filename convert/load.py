"""From folders to checkpoints and assistants.

The one module here that knows the native format, the HF form and the ``Assistant``:
HF folder -> native, native -> HF, either of them -> Assistant, straight into shardings.
Tensors pass one at a time.
"""

import contextlib
import itertools
import math
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from convert.adapter import Adapter, open_adapter
from convert.hf_config import fresh_hf, from_hf, vica2_from_llava
from convert.hf_config import to_hf as config_to_hf
from convert.ops import Widened, contiguous, widened
from convert.projectors import hiera_projector_rows
from convert.quantize import check_model, describe, quantized, quantized_bytes
from convert.rules import LazyTensor, Row, invert_lazily, nest
from convert.safetensors_io import read_json, source_hashes, write_json, write_sharded
from convert.vica import model_rows, open_folder
from vica_jax.checkpoint import (
    CheckpointError,
    CheckpointWriter,
    Manifest,
    is_checkpoint,
    iter_leaves,
    read_manifest,
)
from vica_jax.checkpoint.manifest import TOKENIZER
from vica_jax.data.tokenizer import TokenizerError, load_tokenizer
from vica_jax.decode.assistant import (
    Assistant,
    default_dtype,
    shardings_for,
)
from vica_jax.decode.measure import memory_named
from vica_jax.errors import InputError
from vica_jax.models.config import HieraConfig, VicaConfig
from vica_jax.models.quantize import SCALE

MODELS = ("vica_qwen", "llava_qwen")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.jinja"]
Notes = list[str]


class HubError(InputError):
    """A hub id that cannot be downloaded."""


def resolve(source: str | os.PathLike) -> Path:
    """A local folder as it is; a hub id downloaded (resumably) by huggingface_hub.

    Raises:
      HubError: no such folder, and no hub id or none that can be had.
    """
    path = Path(source)
    if path.exists():
        return path
    if not HUB_ID.fullmatch(str(source)):
        raise HubError(f"{source}: no such folder (and not a hub id such as org/name)")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(source), allow_patterns=HUB_FILES))
    except LocalEntryNotFoundError as error:
        reason = "the hub is out of reach or HF_HUB_OFFLINE is set"
        cause: Exception = error
    except Exception as error:  # the hub library raises many kinds
        first, *_ = str(error).strip().split("\n")
        reason, cause = f"{type(error).__name__}: {first}", error
    raise HubError(
        f"{source}: no such folder, and the hub id cannot be downloaded ({reason}): "
        "download it elsewhere and give the folder"
    ) from cause


# ------------------------------------------------------------------- assistant
def load_assistant(
    folder: str | os.PathLike,
    *,
    mesh: jax.sharding.Mesh | None = None,
    dtype: str | None = None,
    kv_dtype: str | None = None,
    adapter: str | os.PathLike | None = None,
    progress: bool = False,
) -> Assistant:
    """An Assistant from a native checkpoint, an HF folder or a hub id.

    ``adapter`` is a PEFT LoRA folder, merged into the weights here; ``kv_dtype`` is
    ``Assistant``'s.

    Raises:
      InputError: the folder is none of these, holds another family, or is broken; or
        an adapter is given and the weights are int8.
    """
    path, opened = resolve(folder), None
    native = is_checkpoint(path)
    if adapter is not None:  # looked at before the weights, which take minutes
        hf = None if native else open_folder(path, MODELS)
        if hf is None:
            manifest = read_manifest(path)
            manifest.check_float("merging an adapter")
            config = manifest.model_config
        else:
            config = hf.config
        assert isinstance(config, VicaConfig)
        opened = open_adapter(adapter, model_rows(config))
    with memory_named("loading the weights", "--dtype=bfloat16 or a larger mesh"):
        if native:
            assistant = Assistant.load(path, mesh=mesh, dtype=dtype, kv_dtype=kv_dtype)
        else:
            assistant = _from_hf(path, mesh, dtype, kv_dtype, progress)
        if opened is not None:
            assistant.params = _merged(assistant.params, opened)
    return assistant


def _from_hf(
    path: Path,
    mesh: jax.sharding.Mesh | None,
    dtype: str | None,
    kv_dtype: str | None,
    progress: bool,
) -> Assistant:
    source = open_folder(path, MODELS)
    assert isinstance(source.config, VicaConfig)
    tokenizer = _tokenizer(path, source.config)
    target = jnp.dtype(dtype or default_dtype())
    shardings = shardings_for(source.config, mesh)

    def place(name: str, array: np.ndarray) -> jax.Array:
        sharding = None
        if shardings is not None:
            sharding = shardings
            for key in name.split("/"):
                sharding = sharding[key]
        return jax.device_put(contiguous(array), sharding)

    with _bar(source.tensors(target), len(source.rows), "load", progress) as bar:
        params = nest((name, place(name, array)) for name, array in bar)
    return Assistant(
        source.config,
        params,
        tokenizer,
        generation_config=_generation_config(path),
        hf_config=source.hf_config,
        dtype=target,
        mesh=mesh,
        kv_dtype=kv_dtype,
    )


def _tokenizer(folder: Path, config: VicaConfig) -> Any:
    """The folder's tokenizer, which must be this model's."""
    tokenizer = load_tokenizer(folder)
    if len(tokenizer) > config.llm.vocab_size:
        raise TokenizerError(
            f"{folder}: the tokenizer makes {len(tokenizer):,} ids, the model embeds "
            f"{config.llm.vocab_size:,}: copy the tokenizer files of this checkpoint"
        )
    return tokenizer


def _merged(params: Any, adapter: Adapter) -> Any:
    """The parameters with an adapter's updates, in their own dtype and sharding."""
    changed = jax.tree.map(lambda x: x, params)
    for path in adapter.native_paths:
        *parents, leaf = path.split("/")
        node = changed
        for key in parents:
            node = node[key]
        old = node[leaf]
        new = contiguous(adapter.apply(path, np.asarray(old)))
        node[leaf] = jax.device_put(new, old.sharding)
    return changed


# ---------------------------------------------------------------- HF -> native
def to_native(
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    dtype: str | None = None,
    hiera: str | os.PathLike | None = None,
    seed: int = 0,
    quantize: Literal["int8"] | None = None,
    progress: bool = False,
) -> Notes:
    """Convert an HF folder; with ``hiera`` assemble ViCA2-Init from LLaVA-Video.

    With ``quantize`` the language model's kernels become int8 (``convert/quantize``),
    for inference only. The tokenizer and config files travel with the weights. Returns
    what a reader should know: ignored tensors, settings without effect. Nothing is left
    behind when the conversion does not finish.
    """
    check_target(target)
    folder = open_folder(source, ("llava_qwen",) if hiera else None)
    notes = [folder.report.summary(), *folder.notes]
    hf_config, config, family = folder.hf_config, folder.config, folder.family
    generation_config = _generation_config(Path(source))
    if isinstance(config, VicaConfig):
        _tokenizer(Path(source), config)
    widen = dtype == "float32"
    leaves: Iterable[tuple[str, Any]] = folder.tensors(None if widen else dtype)
    rows, checkpoints = list(folder.rows), {"": folder.checkpoint}
    like = dtype or str(folder.checkpoint.dtype(folder.rows[0].hf))
    if hiera is not None:
        tower = open_folder(hiera, ("hiera", "sam2"))
        assert isinstance(tower.config, HieraConfig)
        notes += [tower.report.summary(), *tower.notes]
        hf_config = vica2_from_llava(hf_config, tower.config)
        family, config = from_hf(hf_config, hiera=tower.config)
        fresh = hiera_projector_rows(config.hiera_out_width, config.llm.width)
        rows += [*tower.rows, *fresh]
        checkpoints["hiera/"] = tower.checkpoint
        leaves = itertools.chain(
            leaves,
            tower.tensors(None if widen else like),
            _fresh_projector(fresh, like, seed),
        )
        notes.append(f"Hiera projector freshly initialised (Xavier, seed {seed})")
    itemsize = jnp.dtype(like).itemsize
    size = sum(math.prod(row.hf_shape) for row in rows) * itemsize
    if quantize:
        notes.append(describe(check_model(config, source)))
        sizes = [(row.native, math.prod(row.hf_shape)) for row in rows]
        size = sum(quantized_bytes(*each, itemsize) for each in sizes)
    with (
        CheckpointWriter(target, expected_bytes=size) as writer,
        _bar(leaves, len(rows), "convert", progress) as bar,
    ):
        for name, array in quantized(bar) if quantize else bar:
            wide = widen and array.dtype != np.int8 and not name.endswith(SCALE)
            writer.write(name, widened(array) if wide else array)
            del array  # not two tensors at a time
        if family in MODELS:
            writer.copy_tokenizer(source)
        hashes = {
            prefix + file: digest
            for prefix, checkpoint in checkpoints.items()
            for file, digest in source_hashes(checkpoint).items()
        }
        writer.finish(
            family=family if family in MODELS else "component",
            config=config,
            hf_config=hf_config,
            generation_config=generation_config,
            provenance={
                "source": Path(source).resolve().name,
                "source_family": folder.family,
                "dtype": dtype,  # None: as in the source
                **({"quantize": quantize} if quantize else {}),
                "sha256": hashes,
                "notes": notes,
            },
        )
    return notes


def _fresh_projector(
    rows: Iterable[Row], dtype: str, seed: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Xavier-uniform kernels and zero biases."""
    rng = np.random.default_rng(seed)
    for row in rows:
        shape = row.native_shape
        if len(shape) == 2:
            limit = np.sqrt(6 / sum(shape))
            values = rng.uniform(-limit, limit, shape).astype(np.float32)
        else:
            values = np.zeros(shape, np.float32)
        yield row.native, values.astype(jnp.dtype(dtype))


def _generation_config(folder: Path) -> dict[str, Any] | None:
    path = folder / "generation_config.json"
    return read_json(path) if path.is_file() else None


def check_target(target: str | os.PathLike) -> None:
    """Raise CheckpointError unless ``target`` is free: absent, or an empty folder."""
    path = Path(target)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise CheckpointError(
            f"{target} exists and is not an empty folder: remove it or choose another"
        )


@contextlib.contextmanager
def _bar(
    items: Iterable, total: int, what: str, progress: bool
) -> Iterator[Iterator[Any]]:
    """``items`` under a progress bar, on terminals only: a log keeps notes and errors.

    tqdm's own iterator holds an item while it fetches the next: two embeddings.
    """
    off = None if progress else True

    def counted() -> Iterator[Any]:
        source = iter(items)
        with contextlib.suppress(StopIteration):
            while True:
                yield next(source)
                bar.update()

    with tqdm(total=total, desc=what, unit="tensor", disable=off) as bar:
        yield counted()


# ---------------------------------------------------------------- native -> HF
class LeafSource(Protocol):
    """A model whose leaves are made when they are read (``train/export``)."""

    @property
    def manifest(self) -> Manifest: ...

    def leaves(
        self, paths: Collection[str] | None = None
    ) -> Iterator[tuple[str, np.ndarray]]: ...


def to_hf(
    source: str | os.PathLike | LeafSource,
    target: str | os.PathLike,
    *,
    dtype: str | None = None,
    progress: bool = False,
) -> Notes:
    """Write a native checkpoint, or a run's step, in the form the reference loads.

    Sharded safetensors, config.json (every key of the original, the two size sections
    added), generation_config.json and tokenizer. The folder appears when it is whole.
    """
    if isinstance(source, str | os.PathLike):
        folder = source
        manifest, read = read_manifest(folder), lambda paths: iter_leaves(folder, paths)
    else:
        manifest, read = source.manifest, source.leaves
    source, config = manifest.folder, manifest.config
    manifest.check_float("the Hugging Face form")
    if not isinstance(config, VicaConfig):
        raise InputError(
            f"{source}: a component checkpoint has no HF form of its own here; convert "
            "a ViCA or ViCA2 checkpoint"
        )
    target = Path(target)
    check_target(target)
    # What the weights were cast to when they were converted counts as well.
    said = dtype or manifest.provenance.get("dtype")
    dtypes = {path: dtype or leaf.dtype for path, leaf in manifest.leaves.items()}
    notes: Notes = []
    if manifest.hf_config is None:
        hf_config = fresh_hf(config, dtype=said or min(dtypes.values()))
        notes.append("config.json is made new: the checkpoint has no HF original")
    else:
        hf_config = config_to_hf(manifest.hf_config, config, dtype=said)
    rows = {row.native: row for row in model_rows(config)}
    if odd := sorted(rows.keys() ^ manifest.leaves.keys()):
        raise InputError(
            f"{source}: {len(odd)} leaves do not fit the model in its manifest, "
            f"{odd[0]} first: convert the checkpoint again"
        )
    # Files hold wider dtypes first, so leaves are asked for in that order.
    size = {name: jnp.dtype(name).itemsize for name in dtypes.values()}
    paths = sorted(dtypes, key=lambda path: (-size[dtypes[path]], dtypes[path]))
    groups = [list(group) for _, group in itertools.groupby(paths, dtypes.get)]
    leaves = itertools.chain.from_iterable(map(read, groups))
    partial = target.parent / f".{target.name}.partial-{os.getpid()}"
    try:
        partial.mkdir(parents=True)
        with _bar(leaves, len(rows), "export", progress) as bar:

            def leaf(path: str) -> np.ndarray:
                found, array = next(bar)
                assert found == path, (found, path)
                return array

            write_sharded(partial, _export(rows, paths, leaf, manifest, dtypes))
        write_json(partial / "config.json", hf_config)
        if manifest.generation_config is not None:
            write_json(partial / "generation_config.json", manifest.generation_config)
        for name in manifest.tokenizer:
            shutil.copyfile(Path(source, TOKENIZER, name), partial / name)
        if target.exists():
            target.rmdir()
        partial.rename(target)
    except OSError as error:
        raise CheckpointError(f"{target}: cannot write here: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return notes


def _export(
    rows: Mapping[str, Row],
    paths: Sequence[str],
    leaf: Callable[[str], np.ndarray],
    manifest: Manifest,
    dtypes: Mapping[str, str],
) -> Iterator[LazyTensor]:
    """HF tensors in the order of ``paths``; wider dtypes are made while writing."""
    for path in paths:
        widen = dtypes[path] == "float32"
        dtype = manifest.leaves[path].dtype if widen else dtypes[path]
        (item,) = invert_lazily([rows[path]], leaf, dtype)
        if widen:
            made = lambda item=item: widened(item.values())
            item = item._replace(dtype=Widened.dtype, values=made)
        yield item


# ----------------------------------------------------------------- inspection
def leaf_table(
    folder: str | os.PathLike,
) -> tuple[str, dict[str, tuple[tuple[int, ...], str]]]:
    """Family, and shape and dtype per native path; headers only, either form."""
    if is_checkpoint(folder):
        manifest = read_manifest(folder)
        leaves = manifest.leaves
        return manifest.family, {p: (x.shape, x.dtype) for p, x in leaves.items()}
    source = open_folder(folder)
    return source.family, {
        row.native: (row.native_shape, str(source.checkpoint.dtype(row.hf)))
        for row in source.rows
    }
