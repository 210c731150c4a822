import numpy as np
import pandas as pd
from tests.figures.tools import legend_of

from xai_robustness.figures import study


def study_table(seeds: int = 3) -> pd.DataFrame:
    names = ["selected on validation", "vanilla", "rr_clarc-layer2-1e6"]
    table = pd.DataFrame({"candidate": names, "seeds": seeds})
    for name, values in (("clean", [0.9, 0.9, 0.9]), ("attacked", [0.8, 0.6, 0.8]), ("gap_recovered", [0.7, 0.0, 0.7])):
        half = 0.05 if seeds > 1 else np.nan
        table[name], table[f"{name}_low"], table[f"{name}_high"] = (
            values,
            np.array(values) - half,
            np.array(values) + half,
        )
    return table


def test_study_names_candidates_from_top_to_bottom(draw):
    results = study_table().loc[[1, 1, 2, 2]].assign(seed=[0, 1, 0, 1])
    figure = draw(study.summary(study_table(), results))
    left, right = figure.axes
    labels = [text.get_text() for text in left.get_yticklabels()]
    assert labels == ["selected on validation", "vanilla", "RR-ClArC, layer2, 1e6"]
    assert left.yaxis_inverted()
    assert legend_of(figure) == ["clean images", "attacked images"]
    assert list(left.containers[1].lines[0].get_xdata()) == [0.8, 0.6, 0.8]
    assert len(left.collections[-1].get_offsets()) == 4
    assert list(right.containers[0].lines[0].get_xdata()) == [0.7, 0.0, 0.7]
    assert "3 seeds" in left.get_title()


def test_study_of_one_seed_has_no_intervals(draw):
    figure = draw(study.summary(study_table(1).assign(gap_recovered=np.nan)))
    assert "one seed" in figure.axes[0].get_title()
    low, high = figure.axes[1].get_xlim()
    assert -1 <= low < 0 < 1 < high <= 2
