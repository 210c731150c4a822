import pytest
from mlflow.tracking import MlflowClient

from xai_robustness.hooks.tracking import experiment_of


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    return MlflowClient(tracking_uri=f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}")


def test_the_selected_model_is_registered_and_predicts_the_same_with_its_insertion(client, tmp_path, monkeypatch):
    import mlflow
    import numpy as np
    import torch
    from kedro.io import Version
    from tests.models.tiny import tiny_stages

    from xai_robustness.hooks.mlflow import MlflowHooks
    from xai_robustness.io.datasets import Checkpoints, Report
    from xai_robustness.models.checkpoint import build_from, describe, save_model
    from xai_robustness.models.insertions import Projection
    from xai_robustness.models.served import Served
    from xai_robustness.models.zoo import MODELS, ModelParams, insert_after
    from xai_robustness.types import InputError

    monkeypatch.setitem(MODELS._entries, "tiny", lambda c, k, stem: tiny_stages(c, k, stem))
    description = describe(ModelParams(name="tiny"), 3, (3, 12, 12), [0.4] * 3, [0.3] * 3)
    model = insert_after(build_from(description), "layer2", Projection(torch.eye(1, 6)[0], 0.3), "projection").eval()

    class Job:
        def write(self, folder):
            save_model(model, description, folder / "best")

    version = Version(None, "2026-01-01T00.00.00.000Z")
    folders = Checkpoints(filepath=str(tmp_path / "models"), version=version)
    folders.save(Job())
    selection = Report(filepath=str(tmp_path / "selection.json"), version=version)
    selection.save({"best": "best"})
    hooks = MlflowHooks()
    hooks._client, experiment = client, experiment_of(client, "registered", tmp_path / "files")
    hooks._run_id = client.create_run(experiment, tags={"study": "registered"}).info.run_id
    hooks._register({"corrected_classifiers": folders, "selection": selection})
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: client.tracking_uri)
    loaded = mlflow.pyfunc.load_model("models:/registered/1")
    images = np.random.default_rng(0).integers(0, 256, (5, 12, 12, 3), dtype=np.uint8)
    wanted = model(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 255).detach().numpy()
    np.testing.assert_array_equal(loaded.predict(images), wanted)
    assert loaded.metadata.signature.inputs.inputs[0].shape == (-1, 12, 12, 3)
    files = {p.suffix for p in (tmp_path / "files").rglob("*") if p.is_file()}
    assert ".safetensors" in files and not files & {".pkl", ".pickle", ".pth", ".pt"}
    with pytest.raises(InputError, match="uint8 of shape"):
        Served(model, (3, 12, 12)).predict(images[:, :5])
