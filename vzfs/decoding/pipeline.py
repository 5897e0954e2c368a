"""One chunk through the codecs of zarr, to plain little-endian bytes in C order.

It runs in a worker and nowhere else: importing it imports zarr. A pipeline is made of a spec, which
is the JSON of {"shape", "data_type", "codecs", "fill_value"} as a Zarr v3 document has them, "shape"
being the chunk's own. There may be "kept" too: how much of each axis is wanted, from its beginning.
Whatever is wrong raises: which exception says nothing, since codecs raise all.
"""

import asyncio
import contextlib
import functools
import importlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numcodecs  # type: ignore[import-untyped]  # it has no types
import numpy as np
import zarr.codecs  # noqa: F401 -- registers the codecs of zarr
from zarr.abc.codec import BaseCodec, SupportsSyncCodec
from zarr.codecs.numcodecs import Shuffle
from zarr.core.array_spec import ArrayConfig, ArraySpec
from zarr.core.buffer import NDBuffer, default_buffer_prototype
from zarr.core.metadata.v3 import ArrayV3Metadata
from zarr.errors import UnknownCodecError
from zarr.registry import get_codec_class

from vzfs.decoding.installed import GRIB, IMAGES, TIFF

MAX_PIPELINES: Final = 256
_IMAGES: Final = "imagecodecs_"

# It runs whatever a chunk says, and some packages give any codec of numcodecs a name for zarr.
numcodecs.registry.codec_registry.pop("pickle", None)


class NoCodecError(Exception):
    """No package that is installed has a codec of this name."""


class Pipeline:
    """What decodes the chunks of one spec. Raises whatever is wrong with the spec."""

    def __init__(self, spec: bytes) -> None:
        fields = json.loads(spec)
        codecs = fields["codecs"]
        for name in _names(codecs):
            _find(name)
        shape = fields["shape"]
        metadata = ArrayV3Metadata.from_dict(
            {
                "zarr_format": 3,
                "node_type": "array",
                "shape": shape,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shape}},
                "chunk_key_encoding": {"name": "default"},
                "data_type": fields["data_type"],
                "fill_value": fields["fill_value"],
                "codecs": codecs,
                "attributes": {},
            }
        )
        self.shape: Final = metadata.shape
        self.dtype: Final = metadata.data_type.to_native_dtype().newbyteorder("<")
        if self.dtype.hasobject:
            raise TypeError("the data type has no fixed size")
        self._kept = _kept(fields.get("kept", shape), self.shape)
        self.nbytes: Final = math.prod(self._kept) * self.dtype.itemsize
        self.whole_nbytes: Final = math.prod(self.shape) * self.dtype.itemsize
        self._prototype = default_buffer_prototype()
        config = ArrayConfig.from_dict({})
        stage = ArraySpec(
            self.shape, metadata.data_type, metadata.fill_value, config, self._prototype
        )
        self._stages: list[tuple[str, Any, ArraySpec]] = []
        for name, codec in zip((_name(c) for c in codecs), metadata.codecs, strict=True):
            self._stages.insert(0, (name, codec, stage))
            stage = codec.resolve_metadata(stage)

    def decode(self, chunk: memoryview, out: memoryview) -> None:
        """Decode *chunk* into *out*, which has *nbytes* bytes."""
        data: Any = self._prototype.buffer.from_array_like(np.frombuffer(chunk, np.uint8))
        for name, codec, stage in self._stages:
            try:
                data = _decoded(codec, data, stage)
            except UnknownCodecError:
                raise NoCodecError(name) from None
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001 -- codecs raise whatever they like
                raise ValueError(f"{name}: {str(error) or type(error).__name__}") from None
        if not isinstance(data, NDBuffer):
            raise TypeError("the codecs make no array")
        array = np.asarray(data.as_ndarray_like())
        if array.shape != self.shape or array.dtype.hasobject:
            raise ValueError(f"the codecs make an array of shape {array.shape}, not {self.shape}")
        # Some codecs give wider elements than the array has; zarr assigns them just so.
        wanted = np.frombuffer(out, self.dtype).reshape(self._kept)
        np.copyto(wanted, array[tuple(map(slice, self._kept))], casting="unsafe")


def _kept(said: object, shape: tuple[int, ...]) -> tuple[int, ...]:
    if not isinstance(said, list) or len(said) != len(shape):
        raise TypeError("what is kept of a chunk has other axes than the chunk")
    for length, whole in zip(said, shape, strict=True):
        if type(length) is not int or not 0 < length <= whole:
            raise ValueError("no such part of a chunk can be kept")
    return tuple(said)


@functools.lru_cache(MAX_PIPELINES)
def pipeline_of(spec: bytes) -> Pipeline:
    """Return the pipeline of *spec*. Raises as `Pipeline` does."""
    return Pipeline(spec)


def _decoded(codec: Any, data: Any, stage: ArraySpec) -> Any:  # noqa: ANN401 -- buffers of two kinds
    if isinstance(codec, Shuffle):
        return _unshuffled(codec, data, stage)
    if isinstance(codec, SupportsSyncCodec) and getattr(codec, "_sync_capable", True):
        return codec._decode_sync(data, stage)  # the name is that of zarr's public protocol
    assert isinstance(codec, BaseCodec)  # noqa: S101 -- or zarr's metadata would not have it
    [made] = _runner().run(codec.decode([(data, stage)]))
    return made


@functools.cache
def _runner() -> asyncio.Runner:
    return asyncio.Runner()


def _unshuffled(codec: Shuffle, data: Any, stage: ArraySpec) -> Any:  # noqa: ANN401 -- a buffer
    """Undo a shuffle as HDF5 does: only whole elements are shuffled, and the rest stays behind them.

    There is a rest where a checksum was appended before. numcodecs refuses that.
    """
    size: Any = codec.codec_config.get("elementsize", 4)
    stored = data.as_numpy_array()
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(stored):
        raise ValueError("an element is larger than what was shuffled")
    if size <= 1:
        return data
    whole = len(stored) - len(stored) % size
    made = np.empty(len(stored), np.uint8)
    numcodecs.Shuffle(size).decode(stored[:whole], out=made[:whole])
    made[whole:] = stored[whole:]
    return stage.prototype.buffer.from_array_like(made)


# -- finding codecs ----------------------------------------------------------------------------


def _names(codecs: object) -> Iterator[str]:
    """Yield the names of codecs, and of those that are within shards."""
    if not isinstance(codecs, list) or not codecs:
        raise TypeError("there are no codecs")
    for codec in codecs:
        yield _name(codec)
        configuration = codec.get("configuration") if isinstance(codec, Mapping) else None
        if isinstance(configuration, Mapping):
            for inner in ("codecs", "index_codecs"):
                if inner in configuration:
                    yield from _names(configuration[inner])


def _name(codec: object) -> str:
    name = codec.get("name") if isinstance(codec, Mapping) else codec
    if not isinstance(name, str):
        raise TypeError("a codec has no name")
    return name


@functools.lru_cache(MAX_PIPELINES)
def _find(name: str) -> None:
    """Have the codec *name* registered. Raises NoCodecError if there is none."""
    if name in TIFF:
        with contextlib.suppress(ImportError):
            importlib.import_module("virtual_tiff.codecs")
    if name in IMAGES or name == GRIB:
        _own("vzfs.decoding.images" if name in IMAGES else "vzfs.decoding.gribs")
    known = numcodecs.registry.codec_registry.keys() | numcodecs.registry.entries.keys()
    if name.startswith(_IMAGES) and name not in known:
        with contextlib.suppress(ImportError):
            importlib.import_module("imagecodecs.numcodecs").register_codecs()
    try:
        get_codec_class(name)
    except UnknownCodecError:
        raise NoCodecError(name) from None


@functools.cache
def _own(module: str) -> None:
    """Have the codecs of *module* registered, if what they are made of is installed."""
    with contextlib.suppress(ImportError):
        importlib.import_module(module).register()
