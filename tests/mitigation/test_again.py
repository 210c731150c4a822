from collections import OrderedDict

import numpy as np
import torch
from tests.mitigation.toys import SIZE, image_set
from torch import nn

from xai_robustness.concepts.spectral import RevealParams
from xai_robustness.mitigation.again import suspected, suspected_before_and_after
from xai_robustness.mitigation.sensitivity import Labelled

PARAMS = RevealParams(views=("input",), n_neighbors=8, n_eigen=8, min_size=5, layers=("relu",))


def looking_model(corner: float) -> nn.Sequential:
    """Class 0 is scored by the middle of the image, and by its upper left corner with this weight."""
    model = nn.Sequential(
        OrderedDict(conv=nn.Conv2d(3, 3, 1), relu=nn.ReLU(), flatten=nn.Flatten(), fc=nn.Linear(3 * SIZE**2, 3))
    ).eval()
    weight = torch.zeros(3, 3, SIZE, SIZE)
    weight[:, :, 5:13, 5:13] = 1.0
    weight[:, :, :4, :4] = corner
    with torch.no_grad():
        model.conv.weight.copy_(torch.eye(3).reshape(3, 3, 1, 1))
        model.conv.bias.zero_()
        model.fc.weight.copy_(weight.flatten(1))
        model.fc.bias.zero_()
    return model


def test_the_artifact_is_a_suspect_of_the_model_that_uses_it_alone():
    images = image_set(180, 0)
    rows = np.flatnonzero(images.labels == 0)
    labelled = Labelled(images.subset(rows), images.has_artifact[rows], [0])
    models = {"before": lambda: looking_model(5.0), "after": lambda: looking_model(0.0)}
    found = suspected_before_and_after(models, labelled, PARAMS, 0, "cpu")
    assert found["before"]["listed"] and found["before"]["place"] == 1 and found["before"]["images"] == 60
    assert found["after"]["listed"] is False and found["after"]["place"] is None


def test_nothing_is_said_without_a_confirmed_artifact_or_with_too_few_images():
    images = image_set(9, 0)
    few = Labelled(images, images.has_artifact, [0])
    assert suspected(looking_model(1.0), few, PARAMS, 0, "cpu") is None
    assert suspected_before_and_after({"before": lambda: looking_model(1.0)}, None, PARAMS, 0, "cpu") == {
        "before": None
    }
