from pathlib import Path
from typing import Any

import pytest
import yaml

from xai_robustness.io.config import PresetConfigLoader
from xai_robustness.models.presets import PRESETS
from xai_robustness.parameters import read_parameters
from xai_robustness.settings import CONFIG_LOADER_ARGS
from xai_robustness.types import InputError

ROOT = Path(__file__).parents[2]


def training(folder: Path, study: dict[str, Any] | None, given: dict[str, Any] | None = None) -> Any:
    """The training parameters of a study (None: the base study) under the project's own base configuration."""
    for name in ("base", "local", "mine"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "base" / "globals.yml").write_text("study: mine\nseed: 0\n")
    (folder / "base" / "parameters.yml").write_text("study: mine\n")
    base = (ROOT / "conf" / "base" / "parameters_training.yml").read_text()
    (folder / "base" / "parameters_training.yml").write_text(base)
    if study is not None:
        (folder / "mine" / "parameters.yml").write_text(yaml.safe_dump({"training": study}))
    options: Any = CONFIG_LOADER_ARGS
    env = "base" if study is None else "mine"
    runtime = {"training": given} if given else {}
    loader = PresetConfigLoader(str(folder), env=env, runtime_params=runtime, **options)
    return read_parameters(loader["parameters"]).training


def test_a_preset_replaces_the_base_study_and_yields_to_the_study_and_the_command_line(tmp_path: Path) -> None:
    found = training(tmp_path, {"preset": "dermoscopy_adversarial", "lr": 0.5, "adversarial": {"steps": 2}})
    wanted = PRESETS["dermoscopy_adversarial"]
    assert (found.lr, found.adversarial.steps) == (0.5, 2)
    assert found.adversarial.method == "pgd" and found.adversarial.eps == 3.0
    assert (found.epochs, found.scheduler, found.augment) == (wanted["epochs"], "plateau", False)
    given = training(tmp_path, {"preset": "deit", "epochs": 4}, {"epochs": 6, "mixup": 0.1})
    assert (given.epochs, given.mixup, given.cutmix, given.scheduler) == (6, 0.1, 1.0, "cosine")


def test_a_preset_of_the_command_line_is_enough_for_the_base_study(tmp_path: Path) -> None:
    found = training(tmp_path, None, {"preset": "small_resnet", "patience": 2})
    assert (found.epochs, found.optimizer, found.patience, found.scheduler) == (10, "sgd", 2, "none")


def test_without_a_preset_nothing_changes(tmp_path: Path) -> None:
    base = yaml.safe_load((ROOT / "conf" / "base" / "parameters_training.yml").read_text())["training"]
    assert (
        training(tmp_path, {"epochs": 3}).model_dump()
        == read_parameters({"study": "x", "training": {**base, "epochs": 3}}).training.model_dump()
    )


def test_a_misspelt_preset_is_one_sentence_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Unknown preset 'derm' in training.preset\..*Choose from: revise_vgg"):
        training(tmp_path, {"preset": "derm"})


@pytest.mark.parametrize(("given", "folder"), [({}, "phantom/seed_0"), ({"study": "other", "seed": 3}, "other/seed_3")])
def test_study_and_seed_of_the_command_line_name_the_folders(given: dict[str, Any], folder: str) -> None:
    options: Any = CONFIG_LOADER_ARGS
    loader = PresetConfigLoader(str(ROOT / "conf"), env="base", runtime_params=given, **options)
    assert loader["catalog"]["classifier"]["filepath"] == f"data/06_models/{folder}/classifier"
    assert f"{loader['parameters']['study']}/seed_{loader['parameters']['seed']}" == folder
