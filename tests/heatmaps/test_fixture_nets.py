import numpy as np
import pytest
import torch

from tests.heatmaps.fixture_nets import NAMES, fixture


@pytest.mark.parametrize("name", NAMES)
def test_the_networks_give_the_published_logits(shared, name):
    classifier, arrays = fixture(shared, name)
    with torch.no_grad():
        logits = classifier(torch.from_numpy(arrays["input"]).double())
    np.testing.assert_allclose(logits, arrays["logits"], atol=1e-12, rtol=1e-12)
