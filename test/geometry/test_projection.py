import torch

from robust_loc.geometry import backproject, project, projection_jacobian


def test_backprojection_inverts_projection_and_jacobian_is_the_derivative():
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(20, 3, generator=generator, dtype=torch.float64) + torch.tensor([-0.5, -0.5, 1.0])
    K = torch.tensor([300.0, 310.0, 160.0, 120.0], dtype=torch.float64)
    pixels = project(points, K)
    torch.testing.assert_close(backproject(pixels, points[:, 2], K), points)
    numeric = torch.func.vmap(torch.func.jacrev(lambda p: project(p, K)))(points)
    torch.testing.assert_close(projection_jacobian(points, K), numeric)
