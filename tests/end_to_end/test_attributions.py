"""The attribution set of a study: off by default, made by its nodes when methods are asked for."""

import torch

from xai_robustness.attribution.attribution_set import AttributionSet

NODES = ["probe_batch_sizes", "compute_attributions", "plot_attributions", "export_attributions"]


def test_nothing_is_made_by_default(finished):
    catalog = finished.session.finished_catalog()
    assert AttributionSet(catalog.load("attribution_set")).groups == ()
    assert catalog.load("batch_sizes")["methods"] == {}
    assert list(catalog.load("attribution_export").iterdir()) == []
    assert list(catalog.load("part_classifiers").iterdir()) == []


def test_a_set_with_its_gallery_and_files(finished):
    session, ran = finished.run(
        selection={"node_names": [f"preprocessing.{name}" for name in NODES]},
        attribution_sets__methods=["saliency", "grad_cam"],
        attribution_sets__noises=["clean", "speckle"],
        attribution_sets__n_samples=6,
        attribution_sets__export=["pt"],
        preflight__batch_size=4,
    )
    assert sorted(ran) == sorted(NODES)
    catalog = session.finished_catalog()
    found = AttributionSet(catalog.load("attribution_set"))
    assert found.groups == ("test/clean/clean", "test/clean/speckle")
    assert found.attributions("test/clean/speckle", "grad_cam").shape[:2] == (6, 1)
    assert set(catalog.load("batch_sizes")["methods"]) == {"saliency", "grad_cam"}
    assert catalog.load("attribution_gallery").startswith(b"\x89PNG")
    stored = catalog.load("attribution_export") / "test-clean-speckle" / "attributions" / "saliency.pt"
    expected = found.attributions("test/clean/speckle", "saliency")
    assert torch.equal(torch.load(stored, weights_only=True), torch.from_numpy(expected))
