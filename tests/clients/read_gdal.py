"""GDAL's multidimensional API by ctypes: `python3 read_gdal.py ROOT FORMAT LIBRARY`.

So one program reads with any GDAL, be it the system's or the one inside a wheel, which does not
expose this part.
"""

import ctypes
import functools
import sys
from ctypes import POINTER, byref, c_char_p, c_int, c_int64, c_size_t, c_uint, c_void_p

import answers

MULTIDIM, VERBOSE_ERROR = 0x10, 0x40
NUMERIC = 0
NAMES = [
    *("", "uint8", "uint16", "int16", "uint32", "int32", "float32", "float64"),
    *("", "", "complex64", "complex128", "uint64", "int64", "int8", "float16"),
]
"""The names of the data types by their numbers in GDALDataType. Complex integers have none."""


def _declare(library):
    for name, result, *arguments in (
        ("GDALAllRegister", None),
        ("GDALVersionInfo", c_char_p, c_char_p),
        ("CPLErrorReset", None),
        ("CPLGetLastErrorMsg", c_char_p),
        ("CPLGetLastErrorType", c_int),
        ("CPLPushErrorHandler", None, c_void_p),
        ("GDALOpenEx", c_void_p, c_char_p, c_uint, c_void_p, c_void_p, c_void_p),
        ("GDALDatasetGetRootGroup", c_void_p, c_void_p),
        ("GDALGroupOpenMDArray", c_void_p, c_void_p, c_char_p, c_void_p),
        ("GDALMDArrayGetDimensionCount", c_size_t, c_void_p),
        ("GDALMDArrayGetDimensions", POINTER(c_void_p), c_void_p, POINTER(c_size_t)),
        ("GDALDimensionGetSize", ctypes.c_uint64, c_void_p),
        ("GDALMDArrayGetDataType", c_void_p, c_void_p),
        ("GDALExtendedDataTypeGetClass", c_int, c_void_p),
        ("GDALExtendedDataTypeGetNumericDataType", c_int, c_void_p),
        ("GDALExtendedDataTypeGetSize", c_size_t, c_void_p),
        (
            *("GDALMDArrayRead", c_int, c_void_p, POINTER(ctypes.c_uint64), POINTER(c_size_t)),
            *(POINTER(c_int64), POINTER(c_int64), c_void_p, c_void_p, c_void_p, c_size_t),
        ),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


gdal = ctypes.CDLL(sys.argv[3])
_declare(gdal)
gdal.CPLPushErrorHandler(ctypes.cast(gdal.CPLQuietErrorHandler, c_void_p))
gdal.GDALAllRegister()


def fail(what):
    raise RuntimeError(gdal.CPLGetLastErrorMsg().decode(errors="replace") or what)


@functools.cache
def group_at(folder):
    drivers = (c_char_p * 2)(b"Zarr", None)
    dataset = gdal.GDALOpenEx(folder.encode(), MULTIDIM | VERBOSE_ERROR, drivers, None, None)
    if not dataset:
        fail("not opened")
    return gdal.GDALDatasetGetRootGroup(dataset)


def read(folder, name):
    gdal.CPLErrorReset()
    group = group_at(folder)
    array = gdal.GDALGroupOpenMDArray(group, name.encode(), None)
    if not array:
        fail("the group has no such array")
    count = c_size_t()
    dimensions = gdal.GDALMDArrayGetDimensions(array, byref(count))
    shape = [gdal.GDALDimensionGetSize(dimensions[n]) for n in range(count.value)]
    dtype = gdal.GDALMDArrayGetDataType(array)
    if gdal.GDALExtendedDataTypeGetClass(dtype) != NUMERIC:
        raise TypeError("text or a compound")
    number = gdal.GDALExtendedDataTypeGetNumericDataType(dtype)
    size = gdal.GDALExtendedDataTypeGetSize(dtype)
    for length in shape:
        size *= length
    content = ctypes.create_string_buffer(max(size, 1))
    rank = max(len(shape), 1)
    start = (ctypes.c_uint64 * rank)()
    lengths = (c_size_t * rank)(*shape)
    gdal.CPLErrorReset()
    done = size == 0 or gdal.GDALMDArrayRead(
        array, start, lengths, None, None, dtype, content, content, size
    )
    if not done or gdal.CPLGetLastErrorType() >= 3:
        fail("not read")
    return shape, NAMES[number], content.raw[:size]


answers.run(f"GDAL {gdal.GDALVersionInfo(b'RELEASE_NAME').decode()}", read)
