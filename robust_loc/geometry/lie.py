"""SO(3), SE(3) and Sim(3) in plain torch: batched and differentiable, also at the identity.

Elements are stored as ``[t, q, s]``: translation (3), unit quaternion ``x y z w`` (4) and scale (1), each where the
group has it. Tangents are ``[tau, phi, sigma]``. Retraction is on the left: ``X.retr(a) = Exp(a) * X``.

The method names are those of princeton-vl's ``lietorch``, so that :func:`lie_groups` can hand out either.
"""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

G = TypeVar("G", bound="LieGroup")

# Taylor coefficients in x = theta^2, used below theta^2 = 0.25, where the closed forms lose digits.
_NEAR = 0.25
_SINC_HALF = [1 / 2, -1 / 48, 1 / 3840, -1 / 645120, 1 / 185794560, -1 / 81749606400]  # sin(theta/2)/theta
_VERSINE = [1 / 2, -1 / 24, 1 / 720, -1 / 40320, 1 / 3628800, -1 / 479001600, 1 / 87178291200]  # (1-cos)/theta^2
_CUBIC = [1 / 6, -1 / 120, 1 / 5040, -1 / 362880, 1 / 39916800, -1 / 6227020800]  # (theta-sin)/theta^3
_COTANGENT = [1 / 12, 1 / 720, 1 / 30240, 1 / 1209600, 1 / 47900160, 691 / 1307674368000, 1 / 74724249600]


def skew(v: Tensor) -> Tensor:
    """[..., 3] -> [..., 3, 3], the matrix of ``v x``."""
    x, y, z = v.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).reshape(*v.shape[:-1], 3, 3)


def cross(a: Tensor, b: Tensor) -> Tensor:
    """Cross product along the last dimension, broadcasting the others."""
    return torch.linalg.cross(*torch.broadcast_tensors(a, b))


def quaternion_multiply(p: Tensor, q: Tensor) -> Tensor:
    """Hamilton product of quaternions ``x y z w``."""
    pv, pw, qv, qw = p[..., :3], p[..., 3:], q[..., :3], q[..., 3:]
    return torch.cat([pw * qv + qw * pv + cross(pv, qv), pw * qw - (pv * qv).sum(-1, keepdim=True)], -1)


def quaternion_rotate(q: Tensor, p: Tensor) -> Tensor:
    """Rotate points [..., 3] by unit quaternions [..., 4]."""
    u = 2 * cross(q[..., :3], p)
    return p + q[..., 3:] * u + cross(q[..., :3], u)


def quaternion_to_matrix(q: Tensor) -> Tensor:
    """Unit quaternions [..., 4] -> rotation matrices [..., 3, 3]."""
    return quaternion_rotate(q[..., None, :], torch.eye(3, dtype=q.dtype, device=q.device)).transpose(-1, -2)


def quaternion_from_matrix(R: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] -> unit quaternions ``x y z w`` with w >= 0."""
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in R.unbind(-2))
    # Four multiples of the quaternion; the one with the largest pivot has no cancellation.
    forms = torch.stack(
        [
            torch.stack([1 + a - e - i, b + d, c + g, h - f], -1),
            torch.stack([b + d, 1 - a + e - i, f + h, c - g], -1),
            torch.stack([c + g, f + h, 1 - a - e + i, d - b], -1),
            torch.stack([h - f, c - g, d - b, 1 + a + e + i], -1),
        ],
        -2,
    )
    best = torch.diagonal(forms, dim1=-2, dim2=-1).argmax(-1)
    q = torch.gather(forms, -2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    q = q / q.norm(dim=-1, keepdim=True)
    return torch.where(q[..., 3:] < 0, -q, q)


def _coefficient(x: Tensor, taylor: list[float], closed: Tensor) -> Tensor:
    near = torch.full_like(x, taylor[-1])
    for c in reversed(taylor[:-1]):
        near = near * x + c
    return torch.where(x < _NEAR, near, closed)


def _squared_angle(phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """phi -> theta^2, and theta^2 and theta made 1 near zero so that the unused closed forms have finite gradients."""
    x = (phi * phi).sum(-1, keepdim=True)
    far = torch.where(x < _NEAR, torch.ones_like(x), x)
    return x, far, far.sqrt()


def _so3_exp(phi: Tensor) -> Tensor:
    x, _, theta = _squared_angle(phi)
    imaginary = _coefficient(x, _SINC_HALF, torch.sin(theta / 2) / theta) * phi
    n2 = (imaginary * imaginary).sum(-1, keepdim=True)
    real = torch.where(x < _NEAR, torch.sqrt((1 - n2).clamp(min=0.5)), torch.cos(theta / 2))
    return torch.cat([imaginary, real], -1)


def _so3_log(q: Tensor) -> Tensor:
    q = torch.where(q[..., 3:] < 0, -q, q)
    v, w = q[..., :3], q[..., 3:]
    n2 = (v * v).sum(-1, keepdim=True)
    near = n2 < 1e-3 * w * w
    w_near = torch.where(near, w, torch.ones_like(w))
    r2 = torch.where(near, n2 / (w_near * w_near), torch.zeros_like(n2))
    series = 1 - r2 * (1 / 3 - r2 * (1 / 5 - r2 * (1 / 7 - r2 * (1 / 9 - r2 / 11))))  # atan(r) / r
    n = torch.where(near, torch.ones_like(n2), n2).sqrt()
    return torch.where(near, 2 * series / w_near, 2 * torch.atan2(n, w) / n) * v


def left_jacobian_act(phi: Tensor, v: Tensor) -> Tensor:
    """V(phi) v: the left Jacobian of SO(3) applied to a vector."""
    x, far, theta = _squared_angle(phi)
    b = _coefficient(x, _VERSINE, (1 - torch.cos(theta)) / far)
    c = _coefficient(x, _CUBIC, (theta - torch.sin(theta)) / (far * theta))
    phi_v = cross(phi, v)
    return v + b * phi_v + c * cross(phi, phi_v)


def left_jacobian_inverse_act(phi: Tensor, v: Tensor) -> Tensor:
    """V(phi)^-1 v."""
    x, far, theta = _squared_angle(phi)
    half = theta / 2
    d = _coefficient(x, _COTANGENT, (1 - half * torch.cos(half) / torch.sin(half)) / far)
    phi_v = cross(phi, v)
    return v - 0.5 * phi_v + d * cross(phi, phi_v)


def _sim3_left_jacobian(phi: Tensor, sigma: Tensor) -> Tensor:
    """W(phi, sigma) [..., 3, 3] with ``t = W tau``: an integral, read off a matrix exponential."""
    eye = torch.eye(3, dtype=phi.dtype, device=phi.device).expand(*phi.shape[:-1], 3, 3)
    top = torch.cat([skew(phi) + sigma[..., None] * eye, eye], -1)
    return torch.linalg.matrix_exp(torch.cat([top, torch.zeros_like(top)], -2))[..., :3, 3:]


def _homogeneous(R: Tensor, t: Tensor) -> Tensor:
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=t.dtype, device=t.device).expand(*t.shape[:-1], 1, 4)
    return torch.cat([torch.cat([R, t[..., None]], -1), bottom], -2)


class LieGroup:
    """Common part of the three groups; ``data`` is a tensor [..., embedded_dim]."""

    manifold_dim: ClassVar[int]
    embedded_dim: ClassVar[int]
    identity: ClassVar[list[float]]

    def __init__(self, data: Tensor) -> None:
        if data.shape[-1] != self.embedded_dim:
            raise ValueError(f"{type(self).__name__} data has last dimension {data.shape[-1]}, not {self.embedded_dim}")
        self.data = data

    @classmethod
    def Identity(cls: type[G], *shape: int, **kwargs: Any) -> G:
        return cls(torch.tensor(cls.identity, **kwargs).repeat(*shape, 1))

    @classmethod
    def exp(cls: type[G], a: Tensor) -> G:
        raise NotImplementedError

    def log(self) -> Tensor:
        raise NotImplementedError

    def inv(self: G) -> G:
        raise NotImplementedError

    def mul(self: G, other: G) -> G:
        raise NotImplementedError

    def act(self, p: Tensor) -> Tensor:
        """Transform points [..., 3], or homogeneous points [..., 4] (the fourth coordinate is kept)."""
        raise NotImplementedError

    def matrix(self) -> Tensor:
        """[..., 4, 4] homogeneous matrix."""
        raise NotImplementedError

    def adjoint(self) -> Tensor:
        """[..., d, d] matrix ``Ad`` with ``X Exp(a) = Exp(Ad a) X``."""
        raise NotImplementedError

    def adj(self, a: Tensor) -> Tensor:
        return (self.adjoint() @ a[..., None]).squeeze(-1)

    def adjT(self, a: Tensor) -> Tensor:
        return (self.adjoint().transpose(-1, -2) @ a[..., None]).squeeze(-1)

    def retr(self: G, a: Tensor) -> G:
        """Left retraction ``Exp(a) * X``."""
        return type(self).exp(a).mul(self)

    def __mul__(self, other: Any) -> Any:
        return self.mul(other) if isinstance(other, LieGroup) else self.act(other)

    def __getitem__(self: G, index: Any) -> G:
        """Index the batch dimensions."""
        index = index if isinstance(index, tuple) else (index,)
        return type(self)(self.data[(*index, slice(None)) if Ellipsis in index else index])

    def vec(self) -> Tensor:
        return self.data

    @property
    def shape(self) -> torch.Size:
        return self.data.shape[:-1]

    def detach(self: G) -> G:
        return type(self)(self.data.detach())

    def to(self: G, *args: Any, **kwargs: Any) -> G:
        return type(self)(self.data.to(*args, **kwargs))

    def __repr__(self) -> str:
        return f"{type(self).__name__}{tuple(self.shape)}({self.data})"


class SO3(LieGroup):
    """Rotations, ``data`` = ``[q]``, tangent ``[phi]``."""

    manifold_dim, embedded_dim, identity = 3, 4, [0.0, 0.0, 0.0, 1.0]

    @classmethod
    def exp(cls, a: Tensor) -> SO3:
        return cls(_so3_exp(a))

    @classmethod
    def from_matrix(cls, R: Tensor) -> SO3:
        """From [..., 3, 3] rotation matrices."""
        return cls(quaternion_from_matrix(R))

    def log(self) -> Tensor:
        return _so3_log(self.data)

    def inv(self) -> SO3:
        return SO3(torch.cat([-self.data[..., :3], self.data[..., 3:]], -1))

    def mul(self, other: SO3) -> SO3:
        q = quaternion_multiply(self.data, other.data)
        return SO3(q / q.norm(dim=-1, keepdim=True))

    def act(self, p: Tensor) -> Tensor:
        moved = quaternion_rotate(self.data, p[..., :3])
        return torch.cat([moved, p[..., 3:].expand(*moved.shape[:-1], p.shape[-1] - 3)], -1)

    def rotation_matrix(self) -> Tensor:
        """[..., 3, 3]."""
        return quaternion_to_matrix(self.data)

    def matrix(self) -> Tensor:
        return _homogeneous(self.rotation_matrix(), torch.zeros_like(self.data[..., :3]))

    def adjoint(self) -> Tensor:
        return self.rotation_matrix()


class SE3(LieGroup):
    """Rigid motions, ``data`` = ``[t, q]``, tangent ``[tau, phi]`` (coupled: ``t = V(phi) tau``)."""

    manifold_dim, embedded_dim, identity = 6, 7, [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]

    @classmethod
    def exp(cls, a: Tensor) -> SE3:
        tau, phi = a[..., :3], a[..., 3:]
        return cls(torch.cat([left_jacobian_act(phi, tau), _so3_exp(phi)], -1))

    @classmethod
    def from_matrix(cls, T: Tensor) -> SE3:
        """From [..., 4, 4] (or [..., 3, 4]) matrices."""
        return cls(torch.cat([T[..., :3, 3], quaternion_from_matrix(T[..., :3, :3])], -1))

    def rotation(self) -> SO3:
        return SO3(self.data[..., 3:])

    def log(self) -> Tensor:
        phi = _so3_log(self.data[..., 3:])
        return torch.cat([left_jacobian_inverse_act(phi, self.data[..., :3]), phi], -1)

    def inv(self) -> SE3:
        q = self.rotation().inv()
        return SE3(torch.cat([-q.act(self.data[..., :3]), q.data], -1))

    def mul(self, other: SE3) -> SE3:
        t = self.act(other.data[..., :3])
        return SE3(torch.cat([t, self.rotation().mul(other.rotation()).data], -1))

    def act(self, p: Tensor) -> Tensor:
        weight = p[..., 3:] if p.shape[-1] == 4 else 1.0
        moved = quaternion_rotate(self.data[..., 3:], p[..., :3]) + self.data[..., :3] * weight
        return torch.cat([moved, p[..., 3:].expand(*moved.shape[:-1], p.shape[-1] - 3)], -1)

    def matrix(self) -> Tensor:
        return _homogeneous(quaternion_to_matrix(self.data[..., 3:]), self.data[..., :3])

    def adjoint(self) -> Tensor:
        R = quaternion_to_matrix(self.data[..., 3:])
        top = torch.cat([R, skew(self.data[..., :3]) @ R], -1)
        return torch.cat([top, torch.cat([torch.zeros_like(R), R], -1)], -2)


class Sim3(LieGroup):
    """Similarities ``x -> s R x + t``, ``data`` = ``[t, q, s]``, tangent ``[tau, phi, sigma]`` with ``s = e^sigma``."""

    manifold_dim, embedded_dim, identity = 7, 8, [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]

    @classmethod
    def exp(cls, a: Tensor) -> Sim3:
        tau, phi, sigma = a[..., :3], a[..., 3:6], a[..., 6:]
        t = (_sim3_left_jacobian(phi, sigma) @ tau[..., None]).squeeze(-1)
        return cls(torch.cat([t, _so3_exp(phi), sigma.exp()], -1))

    @property
    def scale(self) -> Tensor:
        """[..., 1]."""
        return self.data[..., 7:]

    def rotation(self) -> SO3:
        return SO3(self.data[..., 3:7])

    def log(self) -> Tensor:
        phi, sigma = _so3_log(self.data[..., 3:7]), self.scale.log()
        tau = torch.linalg.solve(_sim3_left_jacobian(phi, sigma), self.data[..., :3, None]).squeeze(-1)
        return torch.cat([tau, phi, sigma], -1)

    def inv(self) -> Sim3:
        q = self.rotation().inv()
        return Sim3(torch.cat([-q.act(self.data[..., :3]) / self.scale, q.data, 1 / self.scale], -1))

    def mul(self, other: Sim3) -> Sim3:
        t = self.act(other.data[..., :3])
        return Sim3(torch.cat([t, self.rotation().mul(other.rotation()).data, self.scale * other.scale], -1))

    def act(self, p: Tensor) -> Tensor:
        weight = p[..., 3:] if p.shape[-1] == 4 else 1.0
        moved = self.scale * quaternion_rotate(self.data[..., 3:7], p[..., :3]) + self.data[..., :3] * weight
        return torch.cat([moved, p[..., 3:].expand(*moved.shape[:-1], p.shape[-1] - 3)], -1)

    def matrix(self) -> Tensor:
        return _homogeneous(self.scale[..., None] * self.rotation().rotation_matrix(), self.data[..., :3])

    def adjoint(self) -> Tensor:
        R, t = self.rotation().rotation_matrix(), self.data[..., :3]
        top = torch.cat([self.scale[..., None] * R, skew(t) @ R, -t[..., None]], -1)
        middle = torch.cat([torch.zeros_like(R), R, torch.zeros_like(t[..., None])], -1)
        bottom = torch.cat([torch.zeros_like(top[..., :1, :6]), torch.ones_like(top[..., :1, :1])], -1)
        return torch.cat([top, middle, bottom], -2)


def lie_groups(backend: str = "torch") -> SimpleNamespace:
    """The groups of a backend: ``torch`` (this file) or ``lietorch`` (princeton-vl's, where it is installed).

    Raises:
        ImportError: if ``lietorch`` is absent or is the unrelated package of the same name (it has no ``SE3``).
        ValueError: on any other name.
    """
    if backend == "torch":
        return SimpleNamespace(SO3=SO3, SE3=SE3, Sim3=Sim3)
    if backend != "lietorch":
        raise ValueError(f"unknown Lie group backend {backend!r}; expected 'torch' or 'lietorch'")
    module = importlib.import_module("lietorch")
    if not hasattr(module, "SE3"):
        raise ImportError("the installed 'lietorch' has no SE3: it is not princeton-vl/lietorch")
    return SimpleNamespace(SO3=module.SO3, SE3=module.SE3, Sim3=module.Sim3)
