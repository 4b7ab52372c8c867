"""The precision that networks compute in; weights stay float32."""

import logging

import torch

_logger = logging.getLogger("nervex")
PRECISIONS = ("fp32", "medium", "bf16")
_PROBE_SIZE = 256
_FACTOR = 8  # two ways to sum 256 products in float32 differ by less than that


def matmul_error(precision: str) -> float:
    """Returns the largest error of a product of two standard normal 256x256 matrices in float32, on the CPU.

    Args:
        precision: ``'highest'``, ``'high'`` or ``'medium'``, as of ``torch.set_float32_matmul_precision``.
    """
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(_PROBE_SIZE, _PROBE_SIZE, generator=generator) for _ in range(2))
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        found = a @ b
    finally:
        torch.set_float32_matmul_precision(before)
    return float((found - a.double() @ b.double()).abs().max())


def set_matmul_precision(precision: str) -> bool:
    """Chooses the library for float32 products of the process: another one with ``medium``, the standard one otherwise.

    ``medium`` is faster on some processors and as exact; on others it rounds to bfloat16. It is measured, and left
    alone with one line in the log where it is not as exact.

    Args:
        precision: one of ``PRECISIONS``.

    Returns:
        Whether the request was granted.
    """
    torch.set_float32_matmul_precision("highest")
    if precision != "medium":
        return True
    exact, medium = matmul_error("highest"), matmul_error("medium")
    if medium > _FACTOR * exact:
        _logger.warning(
            "policy.learn.precision: 'medium' is off by up to %.1g on this processor, where float32 is by %.1g; "
            "computing in fp32", medium, exact,
        )  # fmt: skip
        return False
    torch.set_float32_matmul_precision("medium")
    return True


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Returns the dtype of ``torch.autocast`` for a precision; None: float32, as it is without. That is the answer also
    where the processor has no instructions for bfloat16, with one line in the log.

    Args:
        precision: one of ``PRECISIONS``.
        device: of the networks.
    """
    if precision != "bf16":
        return None
    supported = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_has_bf16()
    if supported:
        return torch.bfloat16
    _logger.warning("policy.learn.precision: this processor has no bfloat16 instructions; computing in fp32")
    return None


def _cpu_has_bf16() -> bool:
    # emulated it would be slower than float32; torch says it of CPUs by private names only
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
