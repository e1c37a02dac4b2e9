"""A ViT's position table and patch kernel at other sizes than those they were trained at."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def resample_positions(table: Tensor, old: tuple[int, int], new: tuple[int, int], prefix: int) -> Tensor:
    """The position table for another grid: bicubic, without antialiasing, as transformers' InternVL resamples it.

    Args:
        table: ``(1, prefix + H*W, C)``.
        old: ``(H, W)`` of the table.
        new: ``(H', W')`` wanted.
        prefix: Rows in front of the map, for class and register tokens; kept as they are.

    Returns:
        ``(1, prefix + H'*W', C)`` in the table's type.
    """
    if new == old:
        return table
    maps = table[:, prefix:].float().reshape(1, *old, -1).permute(0, 3, 1, 2)  # (1, C, H, W)
    maps = functional.interpolate(maps, size=new, mode="bicubic", align_corners=False)
    rows = maps.permute(0, 2, 3, 1).reshape(1, new[0] * new[1], -1).to(table.dtype)
    return torch.cat([table[:, :prefix], rows], 1)


def resize_patch_kernel(kernel: Tensor, side: int) -> Tensor:
    """The patch embedding for patches of ``side`` px, by a pseudo-inverse (FlexiViT, Beyer et al. 2023, sec. 3.4).

    With B the linear map that resizes a patch, the new kernel is the least-squares solution of ``B.T @ new = old``: a
    patch that is enlarged and embedded by it gives what the patch gave before. Growing kernels do so exactly.

    Args:
        kernel: ``(C, channels, p, p)``.
        side: Pixels.

    Returns:
        ``(C, channels, side, side)`` in the kernel's type.
    """
    old = int(kernel.shape[-1])
    if side == old:
        return kernel
    unit = torch.eye(old * old, dtype=torch.float64).reshape(old * old, 1, old, old)
    # with antialiasing no old pixel falls between new ones, and the cubic is the one that keeps slopes
    resized = functional.interpolate(unit, size=(side, side), mode="bicubic", antialias=True)
    inverse = torch.linalg.pinv(resized.reshape(old * old, side * side))  # (old^2, side^2) is B.T
    flat = kernel.detach().cpu().double().reshape(*kernel.shape[:2], old * old)
    return (flat @ inverse.T).reshape(*kernel.shape[:2], side, side).to(kernel)
