from __future__ import annotations

import math

import torch

from kedge.nets.embeddings import Conditioning, positions, random_fourier, sinusoidal


def test_sinusoidal_features_cover_the_range_of_c_noise() -> None:
    features = sinusoidal(16)
    c_noise = torch.linspace(-2, 1.6, 400)
    values = features(c_noise)
    assert values.shape == (400, 16)
    assert (values[:, 0].diff() > 0).all()  # the slowest sine tells any two levels apart
    torch.testing.assert_close(features(c_noise + 0.25)[:, 7], values[:, 7], rtol=0, atol=1e-4)  # the fastest repeats
    steps = features.w.double().log().diff()
    torch.testing.assert_close(steps, torch.full_like(steps, math.log(32) / 7), rtol=0, atol=1e-5)
    torch.testing.assert_close(values[:, :8] ** 2 + values[:, 8:] ** 2, torch.ones(400, 8), rtol=0, atol=1e-5)


def test_random_features_have_the_gaussian_kernel_of_their_bandwidth() -> None:
    """E cos(w d) = exp(-(2 pi bandwidth d)^2 / 2) for w = 2 pi bandwidth N(0, 1); the mean over n has an error of at
    most sqrt(1 / 2n) or so."""
    torch.manual_seed(0)
    n = 40_000
    for bandwidth in (1.0, 0.5):
        features = random_fourier(2 * n, bandwidth)
        for distance in (0.1, 0.25, 0.6):
            a, b = features(torch.tensor([0.3, 0.3 + distance]))
            kernel = (a @ b).item() / n
            assert abs(kernel - math.exp(-((2 * math.pi * bandwidth * distance) ** 2) / 2)) < 4 / math.sqrt(n)


def test_random_features_stay_as_they_were_drawn() -> None:
    torch.manual_seed(3)
    features = random_fourier(8)
    t = torch.tensor([0.5])
    first = features(t)
    torch.manual_seed(4)
    assert torch.equal(features(t), first)
    assert "w" in features.state_dict()
    assert not list(features.parameters())


def test_levels_of_tokens_are_embedded_one_by_one() -> None:
    torch.manual_seed(0)
    hears = Conditioning("test", "fourier", 8, 12, 6).double()
    t = torch.randn(3, 5, dtype=torch.float64)
    each = hears(t)
    assert each.shape == (3, 5, 6)
    for token in range(5):
        torch.testing.assert_close(each[:, token], hears(t[:, token]), rtol=0, atol=1e-12)


def test_positions_are_the_papers() -> None:
    code = positions(5, 8)
    assert code.shape == (5, 8)
    for token in (0, 3):
        for i in range(4):
            angle = token * 10_000 ** (-i / 3)
            assert abs(code[token, i].item() - math.sin(angle)) < 1e-6
            assert abs(code[token, 4 + i].item() - math.cos(angle)) < 1e-6
