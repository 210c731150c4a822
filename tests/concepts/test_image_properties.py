import numpy as np
import pytest
from scipy import stats

from xai_robustness.concepts.image_properties import (
    ASSOCIATION_COLUMNS,
    PROPERTIES,
    image_properties,
    label_associations,
)


def images(n=80, seed=0):
    noise = np.random.default_rng(seed).normal(0.5, 0.02, size=(n, 28, 28, 3))
    return (noise.clip(0, 1) * 255).astype(np.uint8)


def changed(base, name):
    x = base.astype(float)
    if name == "brightness":
        x += 20
    elif name == "contrast":
        x[:, ::2] += 40
        x[:, 1::2] -= 40
    elif name == "saturation":
        x[..., 2] *= 0.5
    elif name == "border_darkness":
        x[:, :6, :6] = x[:, -6:, -6:] = x[:, :6, -6:] = x[:, -6:, :6] = 0
    elif name == "sharpness":
        x += np.random.default_rng(1).normal(0, 20, x.shape)
    elif name == "text_edges":
        x[:, 3, 4:20] = 255
    return x.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", PROPERTIES.names())
def test_each_property_rises_where_it_is_put_in_and_the_association_is_found(name):
    base = images()
    classes = np.arange(80) % 2
    x = base.copy()
    x[classes == 1] = changed(base[classes == 1], name)
    table = label_associations(image_properties(iter(np.array_split(x, 3))), classes)
    row = table[(table["property"] == name) & (table["class"] == 1)].iloc[0]
    assert row["flagged"] and row["auroc"] > 0.95 and row["mean_inside"] > row["mean_outside"]


def test_gray_images_have_no_saturation_and_flat_ones_no_contrast_nor_edges():
    flat = np.full((2, 20, 20, 1), 90, np.uint8)
    found = image_properties(iter([flat])).iloc[0]
    assert found["brightness"] == pytest.approx(90 / 255)
    assert found[["contrast", "saturation", "border_darkness", "sharpness", "text_edges"]].abs().max() < 1e-12


def test_nothing_is_flagged_where_labels_are_random():
    flagged = []
    found = image_properties(iter([images(60, seed=3)]))
    for seed in range(40):
        table = label_associations(found, np.random.default_rng(seed).integers(0, 3, 60))
        flagged.append(table["flagged"].any())
    assert np.mean(flagged) <= 0.15
    assert list(table.columns) == list(ASSOCIATION_COLUMNS) and len(table) == 18


def test_p_values_are_those_of_the_rank_sum_test_and_undefined_where_there_is_nothing_to_compare():
    x, classes = images(30, seed=5), np.arange(30) % 2
    found = image_properties(iter([x]))
    table = label_associations(found, classes).set_index(["property", "class"])
    theirs = stats.mannwhitneyu(found["contrast"][classes == 1], found["contrast"][classes == 0]).pvalue
    assert table.loc[("contrast", 1), "p_value"] == pytest.approx(theirs)
    one = label_associations(found, np.zeros(30, int))
    assert one["p_value"].isna().all() and not one["flagged"].any()


def test_each_of_several_labels_is_told_from_the_images_without_it():
    found = image_properties(iter([images(30, seed=5)]))
    bright = (found["brightness"] > found["brightness"].median()).to_numpy()
    labels = np.stack([bright, np.arange(30) % 2 == 0, np.zeros(30, bool)], 1).astype(np.int64)
    table = label_associations(found, labels).set_index(["property", "class"])
    assert table.loc[("brightness", 0), "auroc"] == 1 and np.isnan(table.loc[("brightness", 2), "auroc"])
    alone = label_associations(found, labels[:, 1]).set_index(["property", "class"])
    assert table.loc[("contrast", 1), "p_value"] == pytest.approx(alone.loc[("contrast", 1), "p_value"])
