"""Pose and uncertainty heads of many trainings side by side, on features of a frozen transformer.

All trainings of a table see the same batches and start from the same weights; only labels and likelihood differ. A step
of ten of them costs little more than one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_loc.losses import RobustNLL, boltzmann_mean, information_terms
from robust_loc.pose_regression import PoseNetwork
from robust_loc.pose_regression.scene_coordinates import dehomogenize
from robust_loc.pose_regression.tangent import body_error, information_factor
from robust_loc.pose_regression.transformer import pose_matrix, rotation_from_6d


@torch.no_grad()
def pooled_tokens(
    network: PoseNetwork, points: Tensor, intrinsics: Tensor, mask: Tensor | None, thinning: int
) -> Tensor:
    """What the transformer's pose head reads the final pose from: (B, width), for centred points (B, 3, h, w)."""
    caught: list[Tensor] = []
    hook = network.transformer.head.more_mlps.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    answers = []
    for rows in torch.arange(len(points)).split(32):
        part = points[rows][..., ::thinning, ::thinning]
        kept = None if mask is None else mask[rows][..., ::thinning, ::thinning]
        network.transformer(part, intrinsics[rows], thinning * network.stride, kept)
        answers.append(caught[-1])
        caught.clear()
    hook.remove()
    return torch.cat(answers)


class Training(NamedTuple):
    """One of the trainings: its likelihood and its labels, ``world_T_cam`` about the scene's centre of every row."""

    name: str
    likelihood: str
    labels: Tensor


class Heads(nn.Module):
    """``count`` copies of a network's pose and uncertainty heads."""

    def __init__(self, network: PoseNetwork, count: int) -> None:
        super().__init__()
        head = network.transformer.head
        self.mean = self._copies([head.more_mlps[0], head.more_mlps[2], head.fc_t, head.fc_rot], count)
        self.spread = self._copies([network.uncertainty.layers[k] for k in (0, 2, 4)], count)

    @staticmethod
    def _copies(layers: list[nn.Module], count: int) -> nn.ParameterList:
        values = []
        for layer in layers:
            assert isinstance(layer, nn.Linear)
            values += [layer.weight.detach().mT.repeat(count, 1, 1), layer.bias.detach().repeat(count, 1, 1)]
        return nn.ParameterList(values)

    def forward(self, tokens: Tensor, detached: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled tokens (B, width) to poses (count, B, 4, 4) and factors (count, B, 6, 6).

        Where ``detached`` (count,) the uncertainty head's gradient stays out of the shared features.
        """
        m, s = self.mean, self.spread
        x = tokens.expand(len(m[0]), *tokens.shape)
        x = F.relu(torch.baddbmm(m[1], x, m[0]))
        x = F.relu(torch.baddbmm(m[3], x, m[2]))
        translation = dehomogenize(torch.baddbmm(m[5], x, m[4]).flatten(0, 1)).unflatten(0, x.shape[:2])
        rotation = rotation_from_6d(torch.baddbmm(m[7], x, m[6]))
        x = torch.where(detached[:, None, None], x.detach(), x)
        x = F.relu(torch.baddbmm(s[1], x, s[0]))
        x = F.relu(torch.baddbmm(s[3], x, s[2]))
        return pose_matrix(rotation, translation), information_factor(torch.baddbmm(s[5], x, s[4]))


def train(
    heads: Heads, trainings: list[Training], tokens: Tensor, steps: tuple[int, int], batch: int, rate: float, seed: int
) -> None:
    """Step 1: the uncertainty heads on the NLL, the mean frozen. Step 2: both on each training's likelihood."""
    labels = torch.stack([training.labels for training in trainings])
    kinds = [training.likelihood for training in trainings]
    ours = RobustNLL(problems=(kinds.count("consistent"),)) if "consistent" in kinds else None
    everywhere = torch.ones(len(kinds), dtype=torch.bool)
    faithful = torch.tensor([kind == "faithful" for kind in kinds])
    generator = torch.Generator().manual_seed(seed)
    for stage, parameters in enumerate((list(heads.spread), [*heads.mean, *heads.spread])):
        optimizer = torch.optim.AdamW(parameters, lr=rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, rate, total_steps=steps[stage] + 1, cycle_momentum=False, pct_start=0.1
        )
        for _ in range(steps[stage]):
            rows = torch.randint(len(tokens), (batch,), generator=generator)
            poses, factors = heads(tokens[rows], everywhere if stage == 0 else faithful)
            error = body_error(poses, labels[:, rows])
            if stage == 0:
                loss = information_terms(error.detach(), factors).nll().mean(-1).sum()
            else:
                loss = _joint_loss(kinds, error, factors, ours)
            optimizer.zero_grad()
            loss.backward()
            for parameter in parameters:  # clipped per training: none may slow the others down
                assert parameter.grad is not None
                norm = parameter.grad.flatten(1).norm(dim=1).clamp_min(1.0)
                parameter.grad /= norm.reshape(-1, 1, 1)
            optimizer.step()
            schedule.step()


def _joint_loss(kinds: list[str], error: Tensor, factors: Tensor, ours: RobustNLL | None) -> Tensor:
    terms = information_terms(error, factors)
    nll = terms.nll()
    total = nll.new_zeros(())
    for index, kind in enumerate(kinds):
        if kind == "nll":
            total = total + nll[index].mean()
        elif kind == "beta_nll":
            total = total + (torch.exp(0.5 / 6 * terms.log_determinant[index].detach()) * nll[index]).mean()
        elif kind == "faithful":
            fixed = information_terms(error[index].detach(), factors[index])
            total = total + (0.5 * error[index].square().sum(-1) + fixed.nll()).mean()
        elif kind == "robust_nll":
            total = total + boltzmann_mean(nll[index], 1.0)
    mine = [index for index, kind in enumerate(kinds) if kind == "consistent"]
    if ours is not None:
        total = total + ours.of_residual(error[mine], factors[mine]).sum()
    return total
