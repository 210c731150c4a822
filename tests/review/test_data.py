import base64
import io

import numpy as np
import pandas as pd
import pytest
import zarr
from PIL import Image

from xai_robustness.concepts.neuron_heatmaps import NeuronHeatmaps
from xai_robustness.concepts.review import ReviewParams, review_suspects
from xai_robustness.concepts.synthetic import SyntheticReferences
from xai_robustness.datasets.base import DatasetInfo, ImageSet
from xai_robustness.review.data import ReviewData, embedding_views, score_view
from xai_robustness.types import InputError

INFO = DatasetInfo("invented", "multi-class", ("round", "lobed"), "CC0")


def invented(folder, n=40) -> ReviewData:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (n, 8, 8, 1)).astype(np.uint8)
    images = ImageSet(pixels, np.arange(n) % 2, np.arange(n) + 100, INFO)
    ids = images.sample_ids
    embeddings = pd.DataFrame({"class": ids % 2, "view": "layer4", "sample_id": ids, "x": rng.normal(size=n), "y": 0.0})
    suspects = pd.DataFrame({"place": [2, 1], "kind": "cluster", "name": ["cluster 5", "joined 0"], "class": 0})
    members = pd.DataFrame({"name": ["cluster 5", "joined 0", "joined 0"], "sample_id": [102, 100, 102]})
    neurons = pd.DataFrame({"layer": "layer4", "neuron": range(4), "rank": [2, 1, 3, 4], "x": range(4), "y": 0.0})
    rows = [
        ("layer4", k, by, j, 100 + k + j, 1.0) for k in range(4) for by in ("relevance", "activation") for j in (0, 1)
    ]
    references = pd.DataFrame(rows, columns=["layer", "neuron", "by", "place", "sample_id", "score"])
    heatmaps = {int(i): rng.normal(size=(8, 8)) for i in ids}
    kept = zarr.open_group(folder / "neuron_heatmaps", mode="w")
    pairs = references.query("neuron < 2").drop_duplicates(["neuron", "sample_id"])  # the others have none
    for name in ("neuron", "sample_id"):
        kept.create_array(f"layer4/{name}s", data=pairs[name].to_numpy(np.int64))
    kept.create_array("layer4/heatmaps", data=rng.normal(size=(len(pairs), 8, 8)).astype(np.float32))
    made = zarr.open_group(folder / "synthetic_references", mode="w")
    made.create_array("layer4/images", data=rng.integers(0, 255, (4, 2, 1, 8, 8)).astype(np.uint8))
    views = embedding_views(embeddings, suspects, members, INFO.class_names)
    return ReviewData(
        "invented",
        (images,),
        heatmaps,
        views,
        neurons,
        references,
        NeuronHeatmaps(kept),
        SyntheticReferences(made),
        "f1a9",
        folder / "a" / "review.csv",
        folder / "n.csv",
    )


def decoded(address):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


def test_pictures_are_the_sample_and_its_signed_heatmap(tmp_path):
    data = invented(tmp_path)
    image = decoded(data.picture(103))
    assert image.shape == (96, 96, 3) and image[0, 0, 0] == data.images[0].images[3, 0, 0, 0]
    peak = np.unravel_index(np.abs(data.heatmaps[103]).argmax(), (8, 8))
    red, _, blue = decoded(data.picture(103, heatmap=True))[peak[0] * 12, peak[1] * 12].astype(int)
    assert (red > blue) == (data.heatmaps[103][peak] > 0)


def test_concept_pictures_are_the_heatmaps_through_a_neuron_where_they_are_kept(tmp_path):
    data = invented(tmp_path)
    shown = data.concept_pictures("layer4", 1)
    assert sorted(shown) == [101, 102] and data.concept_pictures("layer4", 2) == {}
    values = data.neuron_heatmaps.of("layer4", 1)[102]
    low, high = (np.unravel_index(place, (8, 8)) for place in (values.argmin(), values.argmax()))
    red, _, blue = np.moveaxis(decoded(shown[102])[::12, ::12].astype(int), -1, 0)
    assert blue[low] > red[low] and red[high] > blue[high]


def test_images_made_for_a_neuron_are_shown_where_there_are_some(tmp_path):
    data = invented(tmp_path)
    first, second = data.made_pictures("layer4", 3)
    expected = data.synthetic.images("layer4", 3)[1, ..., 0]
    np.testing.assert_array_equal(decoded(second)[::12, ::12, 2], expected)
    assert not np.array_equal(decoded(first), decoded(second))
    assert data.made_pictures("layer3", 3) == []


def test_answers_are_what_the_reviewer_csv_reads(tmp_path):
    data = invented(tmp_path)
    assert data.answers() == {}
    assert data.save_answers([100, 102, 104], [102]) == (1, 2)
    assert data.save_answers([104, 106], [104, 106]) == (3, 1)  # a later answer wins
    assert data.answers() == {100: False, 102: True, 104: True, 106: True}
    samples = pd.DataFrame({"sample_id": np.arange(100, 140), "split": "train", "class": np.arange(40) % 2})
    suspects = pd.DataFrame({"place": [1], "kind": "cluster", "name": "cluster 3", "class": [0]})
    members = pd.DataFrame({"name": "cluster 3", "sample_id": [100, 102]})
    params = ReviewParams(reviewer="csv", csv=str(data.labels))
    reviewed = review_suspects(suspects, members, samples, None, params, seed=0)
    assert reviewed.set_index("sample_id")["artifact"].to_dict() == {100: False, 102: True, 104: True, 106: True}
    assert reviewed["confirmed"].all()


def test_neurons_are_kept_by_model_and_layer(tmp_path):
    data = invented(tmp_path)
    assert data.save_neurons(["layer4/0", "layer4/1"], ["layer4/1"]) == 1
    assert data.save_neurons(["layer4/2"], ["layer4/2"]) == 2
    assert data.save_neurons(["layer4/1"], []) == 1
    assert pd.read_csv(data.marked).to_dict("records") == [{"model": "f1a9", "layer": "layer4", "neuron": 2}]


def test_ticks_of_other_classifiers_and_of_layers_not_shown_stay(tmp_path):
    data = invented(tmp_path)
    others = [("0e77", "layer4", 1), ("0e77", "layer4", 2), ("f1a9", "layer3", 1)]  # 0e77 is no number
    table = pd.DataFrame(others, columns=["model", "layer", "neuron"]).assign(note=["", "looks like ink", ""])
    table.to_csv(data.marked, index=False)
    assert data.save_neurons(["layer4/1", "layer4/2"], ["layer4/1"]) == 2
    assert data.save_neurons(["layer4/1", "layer4/2"], ["layer4/2"]) == 2
    kept = pd.read_csv(data.marked, dtype=str)
    assert list(kept[["model", "layer", "neuron"]].itertuples(index=False, name=None)) == [
        *((model, layer, str(k)) for model, layer, k in others),
        ("f1a9", "layer4", "2"),
    ]
    assert kept["note"][1] == "looks like ink"
    assert set(data.ticked_neurons()["layer"]) == {"layer3", "layer4"}


def test_an_empty_table_of_ticks_is_one_sentence(tmp_path):
    data = invented(tmp_path)
    data.marked.touch()
    with pytest.raises(InputError, match="n.csv must begin with a line of column names"):
        data.ticked_neurons()


def test_views_group_samples_by_their_best_suspect_and_scores_by_class(tmp_path):
    view = invented(tmp_path).views["round, layer4"]
    assert view.set_index("sample_id")["group"].loc[[100, 102, 104]].tolist() == [
        "joined 0",
        "joined 0",
        "no suspect",
    ]
    scores = pd.DataFrame({"sample_id": [1, 2, 3, 9], "class": [0, 1, 0, 1], "late/svm": [0.5, -1.0, 0.1, 9.0]})
    shown = score_view(scores, "late/svm", [1, 2, 3], INFO.class_names)
    assert shown["sample_id"].tolist() == [2, 3, 1] and shown["group"].tolist() == ["lobed", "round", "round"]
    with pytest.raises(KeyError):
        score_view(scores, "late/ridge", [1], INFO.class_names)
