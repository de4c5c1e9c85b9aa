"""Tables of a release with spare rows behind them: an item that comes between two releases gets one.

A table's file is mapped into the front of a larger anonymous mapping, privately: rows of the release are pages of the
file as before, rows behind it are memory that costs nothing until it is written to, and the whole is one array. So the
funnel reads rows of new items as it reads all others.
"""

import ctypes
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
"""Of Linux (mmap(2)); Python's `mmap` knows neither. No swap is set aside for pages that stay the file's."""
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
)  # fmt: skip
_MAP_FAILED = ctypes.c_void_p(-1).value


def map_with_spare(
    path: Path, *, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...], spare_rows: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The array of `shape` at `offset` in the file at `path`, with `spare_rows` rows of zeros behind it.

    Returns:
        the whole `[shape[0] + spare_rows, ...]`, which may not be written to, and its spare rows, which may.

    Raises:
        OSError: the file cannot be mapped.
    """
    row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
    file_bytes = offset + shape[0] * row_bytes
    whole_shape = (shape[0] + spare_rows, *shape[1:])
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    held = mmap.mmap(-1, max(offset + whole_shape[0] * row_bytes, 1), flags=flags)
    _map_file_over(held, path, file_bytes)
    # The array holds on to the mapping; with the last array it goes as a whole, the file's part of it included.
    whole = np.frombuffer(held, dtype=dtype, count=int(np.prod(whole_shape, dtype=np.int64)), offset=offset)
    whole = whole.reshape(whole_shape)
    spare = whole[shape[0] :]
    whole.flags.writeable = False
    return whole, spare


def _map_file_over(held: mmap.mmap, path: Path, file_bytes: int) -> None:
    """Put the first `file_bytes` of the file in the place of the first pages of `held`.

    Behind the file's end the last page reads as zeros and may be written to: it is a private copy then.
    """
    if path.stat().st_size < file_bytes:
        raise OSError(f"{path.name} is shorter than its header says")
    address = ctypes.addressof(ctypes.c_char.from_buffer(held))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        flags = mmap.MAP_PRIVATE | _MAP_FIXED | _MAP_NORESERVE
        mapped = _LIBC.mmap(address, file_bytes, mmap.PROT_READ | mmap.PROT_WRITE, flags, descriptor, 0)
    finally:
        os.close(descriptor)
    if mapped == _MAP_FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path.name)
