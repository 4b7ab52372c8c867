"""Compiled loops over NumPy arrays, for what is sequential; compiled at their first call, kept in a cache on disk.

They are reached as attributes of this package (``kernels.gae``), which is what first loads Numba: 0.2 s and 100 MiB.
"""

from nervex.utils.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "find_leaves": "nervex.kernels.tree",
        "set_leaves": "nervex.kernels.tree",
        "look_up_images": "nervex.kernels.images",
        "write_rows": "nervex.kernels.records",
        "nstep_windows": "nervex.kernels.windows",
        "gae": "nervex.kernels.returns",
        "vtrace": "nervex.kernels.returns",
        "upgo": "nervex.kernels.returns",
        "lambda_returns": "nervex.kernels.returns",
        "nstep_returns": "nervex.kernels.returns",
    },
)
