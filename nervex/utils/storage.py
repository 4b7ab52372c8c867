"""Bytes on a disk or in an object storage that speaks S3 (Ceph's gateway, MinIO, AWS), each call with a time limit."""

import logging
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import fsspec
from fsspec.asyn import sync

from nervex.utils.errors import ConfigError, MissingExtraError, StorageError, did_you_mean
from nervex.utils.files import atomic_write_bytes

FS_TYPES = ("normal", "ceph", "mc")
TIMEOUT_S = 60.0
_S3_PREFIX = "s3://"

_logger = logging.getLogger("nervex")


class Storage:
    """Where files are, and how long a call may take.

    Args:
        fs_type: ``'normal'``: a path of this machine. ``'ceph'``: ``s3://bucket/key``, or ``bucket/key``. ``'mc'``: a
            path too, on clusters that put a memory cache in front of their file system; nerveX reads the file itself.
            None: as the path says, ``s3://`` or not.
        timeout_s: limit of a whole call, further tries of a request that failed included, in seconds (of S3 only: a
            disk does not answer late, it hangs).
        endpoint_url: address of the S3 service; None: the environment's ``AWS_ENDPOINT_URL``, or else AWS. The
            credentials are those of the environment or of ``~/.aws``.

    Raises:
        ConfigError: an unknown type, or a timeout that is not positive.
    """

    def __init__(
        self, fs_type: str | None = None, *, timeout_s: float = TIMEOUT_S, endpoint_url: str | None = None
    ) -> None:
        if fs_type is not None and fs_type not in FS_TYPES:
            known = ", ".join(FS_TYPES)
            raise ConfigError(f"unknown fs_type '{fs_type}'{did_you_mean(str(fs_type), FS_TYPES)} (known: {known})")
        if not timeout_s > 0:
            raise ConfigError(f"storage got timeout_s={timeout_s}; expected a positive number of seconds")
        self.fs_type = fs_type
        self.timeout_s = timeout_s
        self.endpoint_url = endpoint_url

    def read(self, path: str | os.PathLike[str]) -> bytes:
        """Returns the content of a file.

        Raises:
            StorageError: there is no such file, or it cannot be read in time; the cause is chained.
            MissingExtraError: S3 is asked for and s3fs is not installed.
        """
        if self._is_s3(path):
            return bytes(self._s3("read", path, lambda service, name: service._cat_file(name)))
        try:
            return Path(path).read_bytes()
        except OSError as e:
            raise StorageError(f"cannot read {path}: {e.strerror or e}") from e

    def write(self, path: str | os.PathLike[str], data: bytes) -> None:
        """Makes ``data`` the content of a file: readers meet the old bytes or the new. Folders are made.

        Raises:
            StorageError: it cannot be written in time; the cause is chained.
            MissingExtraError: S3 is asked for and s3fs is not installed.
        """
        if self._is_s3(path):
            self._s3("write", path, lambda service, name: service._pipe_file(name, data))
            return
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            atomic_write_bytes(Path(path), data)
        except OSError as e:
            raise StorageError(f"cannot write {path} ({len(data):,} bytes): {e.strerror or e}") from e

    def remove(self, path: str | os.PathLike[str]) -> None:
        """Removes a file.

        Raises:
            StorageError: there is no such file, or it cannot be removed in time; the cause is chained.
            MissingExtraError: S3 is asked for and s3fs is not installed.
        """
        if self._is_s3(path):
            self._s3("remove", path, _remove_object)
            return
        try:
            Path(path).unlink()
        except OSError as e:
            raise StorageError(f"cannot remove {path}: {e.strerror or e}") from e

    def _is_s3(self, path: str | os.PathLike[str]) -> bool:
        protocol, mark, _ = os.fspath(path).partition("://")
        if mark and protocol != "s3":
            raise ConfigError(f"{path} is a '{protocol}' address; expected a path of this machine, or s3://bucket/key")
        if mark and self.fs_type not in (None, "ceph"):
            raise ConfigError(f"{path} is in an S3 storage, and fs_type is '{self.fs_type}'; use 'ceph'")
        return bool(mark) or self.fs_type == "ceph"

    def _s3(self, verb: str, path: str | os.PathLike[str], call: Callable[[Any, str], Awaitable[Any]]) -> Any:
        name = os.fspath(path).removeprefix(_S3_PREFIX)
        began = time.monotonic()
        try:
            service = self._service()
            # the service's own calls, those without an underscore, have no limit
            return sync(service.loop, call, service, name, timeout=self.timeout_s)
        except FileNotFoundError as e:
            raise StorageError(f"cannot {verb} {_S3_PREFIX}{name} {self._at()}: no such bucket or key") from e
        except ImportError as e:
            raise MissingExtraError("S3 storage needs s3fs; install it with: pip install 'nervex[s3]'") from e
        except Exception as e:  # a border: what goes wrong between here and the service is of many libraries' types
            waited = time.monotonic() - began
            raise StorageError(
                f"process {os.getpid()} cannot {verb} {_S3_PREFIX}{name} {self._at()} after {waited:.1f} s (limit "
                f"{self.timeout_s:g} s): {_reason(e)}; is the service up, and are address and credentials right?"
            ) from e

    def _service(self) -> Any:
        config = {
            "connect_timeout": self.timeout_s,
            "read_timeout": self.timeout_s,
            "retries": {"max_attempts": 2, "mode": "standard"},
        }
        return fsspec.filesystem(
            "s3", endpoint_url=self.endpoint_url, config_kwargs=config, use_listings_cache=False, asynchronous=False
        )

    def _at(self) -> str:
        return f"at {self.endpoint_url or os.environ.get('AWS_ENDPOINT_URL') or 'AWS'}"


async def _remove_object(service: Any, name: str) -> None:
    # S3 is content where there is nothing to remove, and takes the first part of a name for a folder
    if (await service._info(name))["type"] != "file":
        raise FileNotFoundError(name)
    await service._rm_file(name)


def try_import_ceph() -> Any:
    """Returns the class of S3 file systems (of s3fs), or None, with a line in the log, where s3fs is not installed."""
    try:
        return fsspec.get_filesystem_class("s3")
    except ImportError:
        _logger.warning("there is no s3fs here, so no S3 storage; pip install 'nervex[s3]' brings it")
        return None


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ").replace("\n", " ")
