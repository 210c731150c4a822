import numpy as np
import pytest
import zarr

from xai_robustness.concepts import labelled
from xai_robustness.concepts.labelled import Labelled, stratified_folds
from xai_robustness.types import InputError


def samples(n=90, k=8, seed=0):
    rng = np.random.default_rng(seed)
    artifact = rng.random(n) < 0.3
    return rng.normal(size=(n, k)) * rng.uniform(0.5, 3, k) + 2 + artifact[:, None], artifact


def test_sides_outside_of_a_fold_are_those_of_its_rows():
    x, artifact = samples()
    found = Labelled(x, artifact)
    for fold, (train, _) in enumerate(stratified_folds(artifact).split(x, artifact)):
        for side, moments in zip((False, True), found.sides(fold)):
            rows = x[train][artifact[train] == side]
            assert moments.size == len(rows)
            np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-10)
            np.testing.assert_allclose(moments.scatter / len(rows), np.cov(rows.T, bias=True), rtol=1e-9, atol=1e-12)
        inside, labels = found.outside(fold)
        np.testing.assert_array_equal(inside, x[train])
        np.testing.assert_array_equal(labels, artifact[train])
    for moments, variances in zip(found.sides(), found.spread):
        np.testing.assert_allclose(np.diag(moments.scatter), variances.scatter, rtol=1e-10)


@pytest.mark.parametrize("order", ["memory", "store"])
def test_a_store_is_read_in_blocks(order, monkeypatch, tmp_path):
    monkeypatch.setattr(labelled, "BLOCK", 8 * 20)
    x, artifact = samples()
    stored = x
    if order == "store":
        stored = zarr.create_array(tmp_path / "x.zarr", shape=x.shape, chunks=(32, 8), dtype=x.dtype)
        stored[:] = x
    found = Labelled(stored, artifact).scaled("global")
    assert [rows.stop - rows.start for rows, _ in found.blocks()] == [20, 20, 20, 20, 10]
    np.testing.assert_allclose(found.values.mean(0), 0, atol=1e-12)
    assert (found.values**2).mean() == pytest.approx(1)


@pytest.mark.parametrize("copies", [0, 4])
def test_coordinates_of_the_span_keep_products_and_lead_back(copies):
    x, artifact = samples(20, 50)
    x[:copies] = x[10]
    inner, back = Labelled(x, artifact).in_span()
    assert inner.shape == (20, 20 - copies) and inner.width == 50
    np.testing.assert_allclose(inner.values @ inner.values.T, x @ x.T, rtol=1e-9, atol=1e-9)
    direction = np.random.default_rng(1).normal(size=inner.shape[1])
    np.testing.assert_allclose(x @ back(direction), inner.values @ direction, rtol=1e-8, atol=1e-8)
    assert np.linalg.norm(back(direction)) == pytest.approx(np.linalg.norm(direction))


def test_samples_without_an_extent_span_nothing():
    inner, back = Labelled(np.zeros((4, 9)), np.arange(4) < 2).in_span()
    assert inner.shape == (4, 0) and (back(np.zeros(0)) == 0).all()


def test_a_block_that_is_not_finite_is_named():
    x, artifact = samples()
    x[40, 2] = np.nan
    with pytest.raises(InputError, match="Got 1 other values in layer 'late'"):
        _ = Labelled(x, artifact, "late").spread
