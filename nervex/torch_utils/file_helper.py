"""Plain data with arrays and tensors in files, on a disk or in an S3 storage."""

import os
from typing import Any

from nervex.torch_utils.compression_helper import get_data_compressor, get_data_decompressor
from nervex.utils.errors import StorageError
from nervex.utils.storage import Storage


def read_file(path: str | os.PathLike[str], fs_type: str | None = None, **limits: Any) -> Any:
    """Returns the data that ``save_file`` wrote.

    Args:
        path: path of this machine, or ``s3://bucket/key``.
        fs_type: ``'normal'``, ``'ceph'`` or ``'mc'``; None: as the path says. See ``nervex.utils.storage.Storage``.
        limits: ``timeout_s``, the limit of a call to an S3 storage in seconds, and ``endpoint_url``, the address of
            the service (without it, the environment's ``AWS_ENDPOINT_URL``).

    Raises:
        StorageError: there is no such file, it is damaged or of another kind, or its storage is away.
    """
    blob = Storage(fs_type, **limits).read(path)
    try:
        return get_data_decompressor("none", max_bytes=len(blob))(blob)
    except StorageError as e:
        raise StorageError(f"{path} is no file of save_file, or damaged: {e}") from e


def save_file(path: str | os.PathLike[str], data: Any, fs_type: str | None = None, **limits: Any) -> None:
    """Writes data to a file: readers meet the old data or the new. Folders are made.

    Args:
        path, fs_type, limits: see :func:`read_file`.
        data: what ``get_data_compressor`` takes.

    Raises:
        TypeError: something in ``data`` cannot be saved without pickle; nothing is written.
        StorageError: the file cannot be written, or its storage is away.
    """
    blob = get_data_compressor("none")(data)
    Storage(fs_type, **limits).write(path, blob)


def remove_file(path: str | os.PathLike[str], fs_type: str | None = None, **limits: Any) -> None:
    """Removes a file.

    Args:
        path, fs_type, limits: see :func:`read_file`.

    Raises:
        StorageError: there is no such file, or its storage is away.
    """
    Storage(fs_type, **limits).remove(path)
