import torch

from xai_robustness.attribution.heatmap import normalise, positive, to_heatmap


def test_heatmap_is_the_signed_sum_over_channels() -> None:
    attribution = torch.tensor([[[[1.0]], [[-3.0]], [[0.5]]]])
    assert to_heatmap(attribution).tolist() == [[[-1.5]]]


def test_positive_copies() -> None:
    heatmap = torch.tensor([[[1.0, -2.0]]])
    assert positive(heatmap).tolist() == [[[1.0, 0.0]]]
    assert heatmap.tolist() == [[[1.0, -2.0]]]


def test_normalise_keeps_signs_and_zeros() -> None:
    heatmaps = torch.tensor([[[2.0, -4.0]], [[0.0, 0.0]]])
    assert normalise(heatmaps).tolist() == [[[0.5, -1.0]], [[0.0, 0.0]]]
