"""Writes frames to an MP4 file; the only place that needs the ``video`` extra."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from nervex.utils.errors import MissingExtraError, SpecError

try:
    import imageio_ffmpeg
except ImportError:
    imageio_ffmpeg = None


VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi")


def write_video(path: Path, frames: Iterable[np.ndarray], fps: float = 30.0) -> int:
    """Writes frames uint8 [H, W, 3] to ``path`` and returns how many there were.

    Raises:
        MissingExtraError: the extra is not installed.
        SpecError: there is no frame, or a frame is not an RGB image.
    """
    if imageio_ffmpeg is None:
        raise MissingExtraError("writing a video needs imageio-ffmpeg; install it with: pip install 'nervex[video]'")
    writer = None
    count = 0
    for frame in frames:
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise SpecError(f"render() returned {getattr(frame, 'shape', type(frame))}; expected uint8 [H, W, 3]")
        if writer is None:
            size = (frame.shape[1], frame.shape[0])
            writer = imageio_ffmpeg.write_frames(str(path), size, fps=fps, macro_block_size=2)
            writer.send(None)
        writer.send(np.ascontiguousarray(frame))
        count += 1
    if writer is None:
        raise SpecError("there is no frame to write; the episode had no step")
    writer.close()
    return count
