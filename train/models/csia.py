"""CSIA: the objective of pretraining, next-token cross-entropy on the responses of packed conversations.

``L = -sum_j log P(r_j | q, r_<j, E(x))`` (BabelRS, arXiv 2603.01758); instructions carry no loss.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from train.models.chunked_loss import ResponseLoss, response_loss
from train.models.vlm import LayerwiseInternVL


class CSIA(nn.Module):
    """A vision-language model with its loss inside ``forward``, so that DDP and FSDP see the whole of it.

    Args:
        vlm: The model.
        chunk: Tokens whose logits exist at the same time.
    """

    def __init__(self, vlm: LayerwiseInternVL, chunk: int) -> None:
        super().__init__()
        self.vlm = vlm
        self.chunk = chunk

    def forward(
        self, input_ids: Tensor, labels: Tensor, sample_ids: Tensor, pixel_values: Tensor, num_samples: int
    ) -> ResponseLoss:
        """Losses of a packed batch; no sample's depends on another's tokens or images.

        Args:
            input_ids: ``(B, L)``; every visual token is the image context token.
            labels: ``(B, L)``: the token itself where it is part of a response, else -100.
            sample_ids: ``(B, L)``: the sample each token belongs to, in ``[0, num_samples)``, equal ones side by side;
                padding is -1.
            pixel_values: Normalised images ``(N, 3, H, W)`` in the order of their tokens; N may be 0.
            num_samples: Samples of the batch.
        """
        blank = len(pixel_values) == 0
        hidden = self.vlm.model(
            input_ids=input_ids,
            pixel_values=None if blank else pixel_values,
            position_ids=packed_positions(sample_ids),  # where they restart, transformers' masks begin a new sequence
            use_cache=False,
        ).last_hidden_state
        loss = response_loss(hidden, self.vlm.lm_head.weight, labels, sample_ids, num_samples, self.chunk)
        return loss._replace(total=loss.total + self._unseen()) if blank and self.training else loss

    def generate(self, **inputs: Any) -> Tensor:
        """The model's own ``generate``; here, so that sharded weights are gathered as they are for ``forward``."""
        vlm: Any = self.vlm
        found: Tensor = vlm.generate(**inputs)
        return found

    def _unseen(self) -> Tensor:
        """Zero, through the vision tower: text alone would leave its parameters without gradients, which stops DDP."""
        model = self.vlm.model
        height, width = model.config.vision_config.image_size
        image = torch.zeros(1, 3, height, width, device=model.device)
        return 0.0 * cast(Tensor, model.get_image_features(image).pooler_output).float().sum()


def packed_positions(sample_ids: Tensor) -> Tensor:
    """Each token's place in its own sample, ``(B, L)`` int64 from 0, for :meth:`CSIA.forward`'s sample ids."""
    index = torch.arange(sample_ids.shape[1], device=sample_ids.device).expand_as(sample_ids)
    first = torch.ones_like(sample_ids, dtype=torch.bool)
    first[:, 1:] = sample_ids[:, 1:] != sample_ids[:, :-1]
    return index - torch.where(first, index, 0).cummax(1).values
