"""Opening and writing data sets, whatever their format."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from nervex.data.offline.episodes import EpisodeWriter, OfflineData
from nervex.data.offline.folder import MANIFEST, FolderWriter, read_folder
from nervex.data.offline.minari import SUFFIXES, MinariWriter, read_minari
from nervex.torch_utils.tensor_header import refuse_code
from nervex.utils.errors import CheckpointError, DatasetError

_HDF5 = b"\x89HDF\r\n\x1a\n"
_NUMPY = b"\x93NUMPY"
_MINARI_FILE = Path("data") / "main_data.hdf5"  # in a folder of Minari


def open_dataset(path: str | Path, verify: bool = True) -> OfflineData:
    """Returns the episodes of a data set; nothing in it is executed.

    Args:
        path: a folder that ``nervex collect`` or :class:`FolderWriter` made, an HDF5 file of Minari's layout, or a
            data set's folder of Minari.
        verify: compare the digests of our own files first, which reads all of them once.

    Raises:
        DatasetError: it is missing, damaged, empty, ragged, or of another layout.
        MissingExtraError: it is an HDF5 file, and h5py is not installed.
    """
    path = Path(path)
    if path.is_dir():
        minari = path / _MINARI_FILE
        return read_minari(minari) if minari.is_file() and not (path / MANIFEST).exists() else read_folder(path, verify)
    if not path.exists():
        raise DatasetError(f"there is no data set {path}; make one with: nervex collect RUN_DIR --out {path}")
    try:
        with open(path, "rb") as file:
            begin = file.read(len(_HDF5))
        refuse_code(path, begin)
    except OSError as e:
        raise DatasetError(f"cannot read {path}: {e.strerror}") from e
    except CheckpointError as e:
        raise DatasetError(f"{path} is {str(e).partition(' is ')[2].partition(';')[0]}; it was not opened") from e
    if begin == _HDF5:
        return read_minari(path)
    kind = "a NumPy file" if begin.startswith(_NUMPY) else "a file of an unknown kind"
    raise DatasetError(
        f"{path} is {kind}; expected a folder that nervex collect made, or an HDF5 file of Minari's layout (write "
        "your arrays with nervex.data.offline.FolderWriter)"
    )


def dataset_writer(
    path: str | Path, format: Literal["nervex", "minari"] | None = None, info: Mapping[str, Any] | None = None
) -> EpisodeWriter:
    """Returns a writer of a new data set.

    Args:
        path: folder or file, which must not exist.
        format: ``'nervex'`` or ``'minari'``; None: minari where the path ends in .hdf5 or .h5.
        info: notes to keep with the episodes.
    """
    if format is None:
        format = "minari" if Path(path).suffix.lower() in SUFFIXES else "nervex"
    return MinariWriter(path, info) if format == "minari" else FolderWriter(path, info)
