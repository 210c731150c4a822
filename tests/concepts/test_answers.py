import pandas as pd
import pytest

from xai_robustness.concepts.answers import read_ticked
from xai_robustness.concepts.neuron_views import marked_neurons
from xai_robustness.types import InputError


def test_ticks_of_other_classifiers_are_passed_over_where_there_are_own_ones(latents, tmp_path):
    """The page keeps what was ticked in a network before; a run takes what belongs to its own."""
    path = tmp_path / "ticked.csv"
    both = pd.DataFrame({"model": ["0e77", "f1a9"], "layer": ["gone", "late"], "neuron": [900, 3]})
    both.to_csv(path, index=False)
    assert marked_neurons(read_ticked(path, latents.model), latents).to_dict("records") == [
        {"model": "f1a9", "layer": "late", "neuron": 3}
    ]
    both[:1].to_csv(path, index=False)
    with pytest.raises(InputError, match="classifier in use"):
        marked_neurons(read_ticked(path, latents.model), latents)
    both.drop(columns="model").to_csv(path, index=False)
    with pytest.raises(InputError, match="lacks"):
        marked_neurons(read_ticked(path, latents.model), latents)
    path.write_text("model,layer,neuron\n")
    assert marked_neurons(read_ticked(path, latents.model), latents).empty
    path.write_text("")
    with pytest.raises(InputError, match="It is empty"):
        read_ticked(path, latents.model)
