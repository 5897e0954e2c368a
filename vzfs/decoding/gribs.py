"""Messages of GRIB under the name that kerchunk has for them, decoded by eccodes, for zarr.

A chunk is one message. *var* says what of it is wanted: its values, or the latitude or longitude of
each of its points. Missing values are NaN, whichever number the message has in their place.
"""

import dataclasses
from typing import Any, Final, Self

import eccodes  # type: ignore[import-untyped]  # it has no types
import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.registry import _codec_registries, register_codec

from vzfs.decoding.installed import GRIB

MISSING: Final = 1.7e308
"""What eccodes is to put in the place of missing values: a number that no message can have."""
_COORDINATES: Final = {"latitude": "latitudes", "longitude": "longitudes"}


@dataclasses.dataclass(frozen=True)
class Grib(ArrayBytesCodec):
    """The values of one message, in the order in which it has them."""

    var: str = "values"
    dtype: str | None = None
    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: Any) -> Self:  # noqa: ANN401 -- as zarr has it
        """Return the codec that a document says."""
        configuration = {} if isinstance(data, str) else data.get("configuration") or {}
        made = cls(**configuration)
        if made.dtype is not None and np.dtype(made.dtype).kind not in "iuf":
            raise TypeError("messages have numbers")
        return made

    def to_dict(self) -> dict[str, Any]:
        """Return what a document says of it."""
        return {"name": GRIB, "configuration": {"var": self.var, "dtype": self.dtype}}

    def compute_encoded_size(self, input_byte_length: int, _spec: ArraySpec) -> int:
        """Raise: nothing is encoded."""
        raise NotImplementedError

    def _decode_sync(self, chunk: Buffer, spec: ArraySpec) -> NDBuffer:
        handle = eccodes.codes_new_from_message(chunk.to_bytes())
        try:
            key = _COORDINATES.get(self.var, "values")
            eccodes.codes_set(handle, "missingValue", MISSING)
            values = eccodes.codes_get_array(handle, key)
        finally:
            eccodes.codes_release(handle)
        if key == "values":
            values[values == MISSING] = np.nan
        # A data type that is not said is that of the array.
        wanted = self.dtype or spec.dtype.to_native_dtype()
        return spec.prototype.nd_buffer.from_ndarray_like(
            values.astype(wanted, copy=False).reshape(spec.shape)
        )

    def _encode_sync(self, chunk: NDBuffer, spec: ArraySpec) -> Buffer | None:
        raise NotImplementedError


def register() -> None:
    """Have zarr know the codec, whoever else declares it."""
    _codec_registries[GRIB].lazy_load_list.clear()
    _codec_registries[GRIB].clear()
    register_codec(GRIB, Grib)
