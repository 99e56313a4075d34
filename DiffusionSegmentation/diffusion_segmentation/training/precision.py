"""bfloat16 or float32: what a training computes in on this machine."""

from __future__ import annotations

import torch

from ..errors import InputError


def resolved(precision: str) -> str:
    """`bf16` or `float32` for the configuration's `auto`, `bf16` or `float32`, on the device that trains.

    `auto` is bf16 on graphics cards with bfloat16 and on processors with AMX. On other processors bf16 takes seven
    times as long as float32, and the weight gradient of a 3-D convolution whose input is two voxels wide has been read
    from memory that nobody wrote (torch 2.13, AMD EPYC with AVX512-BF16): not a number, or simply wrong.

    Raises InputError where bf16 is asked for and the machine is one of those.
    """
    if torch.cuda.is_available():
        capable = torch.cuda.is_bf16_supported()
    else:
        # Public only from torch 2.11 on; before that nothing tells AMX from other processors, and float32 is right.
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()
        capable = bool(capabilities.get("amx_bf16"))
    if precision == "bf16" and not capable:
        raise InputError(
            "The training configuration asks for bf16, which needs a graphics card with bfloat16 or a processor with "
            "AMX; give 'precision' as auto or float32."
        )
    return ("bf16" if capable else "float32") if precision == "auto" else precision
