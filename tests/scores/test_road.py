import numpy as np
import pytest
import torch
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve

from xseg.device import torchvision_ready
from xseg.scores import road


def solved_directly(image, removed):
    """Row by row, as a sparse system; the neighbours outside the image are left out of the mean."""
    channels, height, width = image.shape
    places = {(int(y), int(x)): k for k, (y, x) in enumerate(np.argwhere(removed))}
    matrix, right = lil_matrix((len(places), len(places))), np.zeros((len(places), channels))
    for (y, x), k in places.items():
        total = 0.0
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                if (dy, dx) == (0, 0) or not (0 <= y + dy < height and 0 <= x + dx < width):
                    continue
                weight = 1 / 12 if dy and dx else 1 / 6
                total += weight
                if (y + dy, x + dx) in places:
                    matrix[k, places[y + dy, x + dx]] = -weight
                else:
                    right[k] += weight * image[:, y + dy, x + dx]
        matrix[k, k] = total
    out = image.copy()
    found = spsolve(matrix.tocsc(), right)
    for (y, x), k in places.items():
        out[:, y, x] = found[k]
    return out


def blob(height, width, share):
    y, x = np.mgrid[:height, :width]
    relevance = np.hypot(y - height * 0.55, x - width * 0.35)
    return relevance <= np.quantile(relevance, share)


def scattered(height, width, share):
    return np.random.default_rng(1).random((height, width)) < share


@pytest.mark.parametrize("holes", [blob, scattered, lambda *a: ~blob(*a)])
@pytest.mark.parametrize(("height", "width", "share"), [(33, 46, 0.9), (40, 24, 0.5), (7, 5, 0.5), (9, 70, 0.2)])
def test_the_fill_solves_the_sparse_system(holes, height, width, share):
    image = np.random.default_rng(0).random((3, height, width))
    removed = holes(height, width, share)
    found = road.impute(torch.from_numpy(image)[None], torch.from_numpy(removed)[None])[0].numpy()
    assert np.abs(found - solved_directly(image, removed)).max() < 1e-6
    assert (found[:, ~removed] == image[:, ~removed]).all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the peer's
def test_the_fill_is_that_of_the_published_code():
    torchvision_ready()
    peer = pytest.importorskip("pytorch_grad_cam.metrics.road")
    image, removed = torch.rand(3, 30, 26, generator=torch.Generator().manual_seed(0)), blob(30, 26, 0.6)
    expected = peer.NoisyLinearImputer(noise=0)(image, torch.from_numpy(~removed).float())
    assert torch.allclose(road.impute(image[None], torch.from_numpy(removed)[None])[0], expected, atol=1e-5)


def test_it_converges_in_few_steps_on_a_large_hole_with_few_known_pixels(monkeypatch):
    monkeypatch.setattr(road, "_MOST_ITERATIONS", 40)
    image = np.random.default_rng(0).random((1, 128, 128))
    for removed in (blob(128, 128, 0.98), scattered(128, 128, 0.98), blob(128, 128, 1.0)):
        removed = removed.copy()
        removed[0, 0] = False
        found = road.impute(torch.from_numpy(image)[None], torch.from_numpy(removed)[None])[0].numpy()
        assert np.abs(found - solved_directly(image, removed)).max() < 1e-6


def test_a_flat_image_stays_flat_and_a_ramp_is_filled_smoothly():
    removed = torch.from_numpy(blob(32, 32, 0.3))[None]
    flat = torch.full((1, 3, 32, 32), 0.25)
    assert torch.allclose(road.impute(flat, removed), flat, atol=1e-6)
    ramp = torch.linspace(0, 1, 32).expand(1, 3, 32, 32)
    inside = removed.clone()
    inside[:, [0, -1]], inside[:, :, [0, -1]] = False, False
    assert torch.allclose(road.impute(ramp, inside), ramp, atol=1e-6)  # linear functions have the mean property


def test_a_batch_gives_what_each_image_gives_alone():
    images = torch.rand(3, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    removed = torch.from_numpy(np.stack([blob(40, 48, 0.9), scattered(40, 48, 0.5), np.zeros((40, 48), bool)]))
    together = road.impute(images, removed)
    for k in range(3):
        assert torch.equal(road.impute(images[k : k + 1], removed[k : k + 1])[0], together[k])
    assert torch.equal(together[2], images[2])


def test_noise_is_added_to_the_filled_pixels_only():
    image, removed = torch.rand(1, 3, 24, 24), torch.from_numpy(blob(24, 24, 0.5))[None]
    noise = torch.full_like(image, 0.125)
    difference = road.impute(image, removed, noise) - road.impute(image, removed)
    assert torch.allclose(difference[:, :, removed[0]], torch.tensor(0.125), atol=1e-6)
    assert (difference[:, :, ~removed[0]] == 0).all()


def test_nothing_to_fill_from_is_refused():
    with pytest.raises(ValueError, match="every pixel"):
        road.impute(torch.rand(1, 3, 8, 8), torch.ones(1, 8, 8, dtype=torch.bool))
