"""Batch normalisation folded into the convolution before it, as engines do; done before ranges are measured."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from train.models.detector import Detector
from train.models.layers import ConvUnit


def folded(detector: Detector) -> Detector:
    """A copy in evaluation mode, without batch normalisation, whose outputs differ by rounding only."""
    model = copy.deepcopy(detector).eval()
    for unit in model.modules():
        if isinstance(unit, ConvUnit) and isinstance(unit[1], nn.BatchNorm2d):
            convolution, normalisation = unit[0], unit[1]
            assert isinstance(convolution, nn.Conv2d)
            with torch.no_grad():
                unit[0] = fuse_conv_bn_eval(convolution, normalisation)
            unit[1] = nn.Identity()
    return model
