"""Every correction on an accelerator gives what it gives on the CPU, up to rounding."""

import pandas as pd
import pytest
import torch
from tests.mitigation.test_job import OPT_IN, PARAMS

from xai_robustness.mitigation.job import CorrectedModels, CorrectionJob, load_corrected


@pytest.mark.parametrize("params", [PARAMS, OPT_IN], ids=["default", "opt-in"])
def test_corrections(params, model, description, train, val, cavs, masks, tmp_path, accelerator):
    labels = pd.DataFrame({"sample_id": train.sample_ids, "artifact": train.has_artifact})
    images, made = val.tensor(slice(None)), []
    for device in ("cpu", accelerator):
        job = CorrectionJob(model, description, train, val, cavs, masks, params, 3, device, labels)
        job.write(tmp_path / device)
        assert not CorrectedModels(tmp_path / device).absent
        made.append({name: load() for name, load in load_corrected(tmp_path / device).items()})
    assert made[0].keys() == made[1].keys()
    with torch.no_grad():
        for name, expected in made[0].items():
            torch.testing.assert_close(made[1][name](images), expected(images), atol=1e-2, rtol=1e-2, msg=name)
