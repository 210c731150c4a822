import numpy as np

from xai_robustness.concepts.samples import rows_of, sample_table


def test_sample_table_keeps_the_order_of_the_latents(latents):
    table = sample_table(latents, ("train", "val"))
    assert list(table.columns) == ["sample_id", "split", "class"] and len(table) == 330
    np.testing.assert_array_equal(table["sample_id"][:240], latents.sample_ids("train"))


def test_rows_of_pairs_the_same_ids_in_the_order_of_the_first():
    here, there = rows_of(np.array([5, 3, 9, 7]), np.array([7, 4, 5]))
    np.testing.assert_array_equal(here, [0, 3])
    np.testing.assert_array_equal(there, [2, 0])
