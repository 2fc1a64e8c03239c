"""Flow loss of patch odometry: plain (DPVO) and weighted by the bundle adjustment's own confidence (V2V).

DPVO: Teed, Lipson, Deng, "Deep Patch Visual Odometry", NeurIPS 2023, Sec. 3.3.
V2V: Gurumurthy et al., "From Variance to Veracity", CVPR 2024, eq. 7.
"""

from __future__ import annotations

import torch
from torch import Tensor

FORMS = ("none", "linear", "sqrt")


def flow_error(predicted: Tensor, target: Tensor, weight: Tensor | None = None, *, form: str = "linear") -> Tensor:
    """Reprojection error of each edge: the smallest over the pixels of its patch.

    Args:
        predicted, target: [..., P, P, 2] reprojected patch pixels, in quarter-resolution pixels.
        weight: [..., 2] confidence of the edge per axis, as the bundle adjustment used it; no gradient flows into it.
        form: ``linear``: ``|w r|``, the weight inside the norm; ``sqrt``: ``|sqrt(w) r| = sqrt(r^T W r)``, the norm in
            the metric of the bundle adjustment; ``none``: the weight is ignored.

    Returns:
        [...] errors.

    Raises:
        ValueError: on an unknown form.
    """
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r} of the weighted flow loss; expected one of {', '.join(FORMS)}")
    residual = predicted - target
    if weight is not None and form != "none":
        factor = weight.detach() if form == "linear" else weight.detach().sqrt()
        residual = residual * factor[..., None, None, :]
    squared = residual.square().sum(-1).flatten(-2)
    # min before sqrt: one root per edge, and its gradient at zero is cut off instead of infinite
    return squared.min(-1).values.clamp(min=1e-12).sqrt()


def flow_loss(
    predicted: Tensor, target: Tensor, valid: Tensor, weight: Tensor | None = None, *, form: str = "linear"
) -> Tensor:
    """Mean of :func:`flow_error` over the valid edges (not divided by the sum of the weights); 0 when none is valid.

    Args:
        predicted, target: [..., P, P, 2]; see :func:`flow_error`.
        valid: [...] bool, edges whose ground truth lies in front of the camera.
        weight: [..., 2]; without it this is the plain loss.

    Returns:
        A scalar.
    """
    error = flow_error(predicted, target, weight, form=form)
    return torch.where(valid, error, torch.zeros_like(error)).sum() / valid.sum().clamp(min=1)
