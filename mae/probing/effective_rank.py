"""RankMe and LiDAR: how many directions features use, a measure of their quality that needs no labels."""

import math

import torch
from torch import Tensor

EPSILON = 1e-7
"""Added to every share of a spectrum, as in both papers, so that a share of 0 has a logarithm."""

DELTA = 1e-4
"""Added to the diagonal of the within-class covariance, as in LiDAR's paper: few views leave it without full rank."""


def rankme(features: Tensor) -> float:
    """Return RankMe of features (n, D), from 1 to min(n, D) (Garrido et al., ICML 2023).

    exp(-sum p_k log p_k) with p_k = s_k / |s|_1 + epsilon, where s are the singular values of the features (eq. 1 and
    2). The features are not centred: a mean that dwarfs their spread is one direction, and lowers the rank.
    """
    return _smooth_rank(torch.linalg.svdvals(features.double()))


def lidar(views: Tensor) -> float:
    """Return LiDAR of the features (n, q, D) of q views of each of n images, from 1 to min(n - 1, D), 1 if n is 1
    (Thilak et al., ICLR 2024).

    The same exponential as RankMe's, of the eigenvalues of S_w^(-1/2) S_b S_w^(-1/2): every image is a class, S_b the
    covariance of the classes' means, S_w the mean covariance within classes, plus delta on its diagonal. A direction
    counts by how much images differ along it, in units of how much views of one image do.
    """
    exact = views.double()
    means = exact.mean(dim=1)
    within = (exact - means[:, None]).flatten(0, 1)
    covariance = within.T @ within / len(within) + DELTA * torch.eye(within.shape[1], dtype=within.dtype)
    between = means - means.mean(dim=0)
    # With S_w = L L^T, L^-1 S_b L^-T has the same eigenvalues: the squared singular values of L^-1 M^T / sqrt(n), M
    # being the centred means. None is negative by rounding, and no D x D matrix of n < D means has to be made.
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), between.T, upper=False)
    return _smooth_rank(torch.linalg.svdvals(whitened).square() / len(means))


def _smooth_rank(spectrum: Tensor) -> float:
    """Return the exponential of the entropy of a spectrum (k,) of values of at least 0: 1 if all of them are 0."""
    shares = spectrum / spectrum.sum().clamp(min=EPSILON) + EPSILON
    return math.exp(-(shares * shares.log()).sum().item())
