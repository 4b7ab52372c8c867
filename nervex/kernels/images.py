"""Images with the channels brought innermost."""

import numpy as np

from nervex.kernels.jit import kernel


@kernel
def look_up_images(image: np.ndarray, table: np.ndarray, out: np.ndarray) -> None:
    """Writes what a table holds for each byte of images.

    Args:
        image: uint8 [N, C, P], P being the pixels.
        table: [256].
        out: of the table's dtype [N, P, C], written.
    """
    for n in range(image.shape[0]):
        for p in range(image.shape[2]):
            for c in range(image.shape[1]):
                out[n, p, c] = table[image[n, c, p]]
