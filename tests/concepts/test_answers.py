import pandas as pd
import pytest

from xai_robustness.concepts.answers import read_table
from xai_robustness.concepts.neuron_views import marked_neurons
from xai_robustness.types import InputError


def test_a_table_of_ticks_is_read_with_its_fingerprints_as_text(latents, tmp_path):
    path = tmp_path / "ticked.csv"
    pd.DataFrame({"model": ["0077", "f1a9"], "layer": "late", "neuron": [2, 3]}).to_csv(path, index=False)
    assert read_table(path)["model"].tolist() == ["0077", "f1a9"]
    path.write_text("model,layer,neuron\n")
    assert marked_neurons(read_table(path), latents).empty
    path.write_text("")
    with pytest.raises(InputError, match="It is empty"):
        read_table(path)
