"""The codecs of imagecodecs under the names that TIFF files' arrays have them by, for zarr.

They are those of `imagecodecs.numcodecs`, wrapped. virtual-tiff declares the same names; but it
imports half of what is installed, and one package less is needed without it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Final, Self

import numcodecs  # type: ignore[import-untyped]  # it has no types
import numpy as np
from zarr.abc.codec import ArrayArrayCodec, BytesBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.registry import _codec_registries, register_codec

from vzfs.decoding.installed import IMAGES


@dataclasses.dataclass(frozen=True)
class _Wrapped:
    """A codec of numcodecs with its configuration."""

    configuration: Mapping[str, Any]
    name = ""

    @classmethod
    def from_dict(cls, data: Any) -> Self:  # noqa: ANN401 -- as zarr has it
        configuration = {} if isinstance(data, str) else data.get("configuration") or {}
        made = cls(configuration)
        made.codec  # noqa: B018 -- a configuration that is wrong is refused at once
        return made

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "configuration": dict(self.configuration)}

    @property
    def codec(self) -> Any:  # noqa: ANN401 -- numcodecs has no types
        return numcodecs.get_codec({**self.configuration, "id": self.name})

    def compute_encoded_size(self, input_byte_length: int, _spec: ArraySpec) -> int:
        raise NotImplementedError


class _OfBytes(_Wrapped, BytesBytesCodec):
    def _decode_sync(self, chunk: Buffer, spec: ArraySpec) -> Buffer:
        made = self.codec.decode(chunk.to_bytes())
        data = np.ascontiguousarray(
            np.frombuffer(made, np.uint8) if isinstance(made, bytes) else made
        )
        return spec.prototype.buffer.from_array_like(data.reshape(-1).view(np.uint8))

    def _encode_sync(self, chunk: Buffer, spec: ArraySpec) -> Buffer | None:
        raise NotImplementedError


class _OfNumbers(_Wrapped, ArrayArrayCodec):
    def _decode_sync(self, chunk: NDBuffer, spec: ArraySpec) -> NDBuffer:
        made = self.codec.decode(np.ascontiguousarray(chunk.as_ndarray_like()))
        return spec.prototype.nd_buffer.from_ndarray_like(np.asarray(made).reshape(spec.shape))

    def _encode_sync(self, chunk: NDBuffer, spec: ArraySpec) -> NDBuffer | None:
        raise NotImplementedError


_NUMBERS: Final = frozenset({"imagecodecs_delta", "imagecodecs_floatpred"})


def register() -> None:
    """Have zarr know the codecs, whoever else declares them."""
    from imagecodecs.numcodecs import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
        register_codecs,
    )

    register_codecs(sorted(IMAGES), force=True, verbose=False)
    for name in IMAGES:
        base = _OfNumbers if name in _NUMBERS else _OfBytes
        _codec_registries[name].lazy_load_list.clear()
        _codec_registries[name].clear()
        register_codec(name, type(name, (base,), {"name": name}))
