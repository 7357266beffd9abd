"""A causal low-pass filter over a history, with a pass-through of what it leaves out."""

import torch
from torch import Tensor, nn


class MovingAverage(nn.Module):
    """norm(low + beta^2 (x - low)), low a moving average of each unit with a decay of its own.

    What a shopper always comes back to is slow, what they are after just now is fast; attention
    alone smooths the fast away. The attentive inductive bias of BSARec (Shin et al. 2024), whose
    Fourier filter reads the whole sequence, in a causal form, so that all places are trained at
    once: exponential moving averages, as in MEGA (Ma et al. 2023). Padding counts for nothing.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        # From averages of about the last event alone (0.27) to long ones (0.95).
        self.decay = nn.Parameter(torch.linspace(-1.0, 3.0, size))
        self.beta = nn.Parameter(torch.ones(size))
        self.norm = nn.LayerNorm(size)

    def forward(self, x: Tensor, filled: Tensor, asked: int) -> Tensor:
        """(B, L, D) and (B, L) bool -> (B, asked, D), of the newest `asked` places."""
        places = torch.arange(x.shape[1], device=x.device)
        back = places[-asked:, None] - places  # (Q, L)
        weights = torch.sigmoid(self.decay) ** back.clamp(min=0)[..., None]  # (Q, L, D)
        weights = weights * (back >= 0)[..., None]
        shown = filled.to(x.dtype)
        total = torch.einsum("qld,bl->bqd", weights, shown)
        low = torch.einsum("qld,bld->bqd", weights, x * shown[..., None]) / total.clamp(min=1e-6)
        smoothed: Tensor = self.norm(low + self.beta**2 * (x[:, -asked:] - low))
        return smoothed
