"""All parameters of a study: one model, one sentence for each mistake."""

import difflib
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from xai_robustness.artifacts.insertion import ArtifactParams
from xai_robustness.attribution.latents import PreprocessingParams
from xai_robustness.attribution.probe import PreflightParams
from xai_robustness.attribution.set_params import AttributionSetParams
from xai_robustness.code_hashes import code_hashes
from xai_robustness.concepts.params import RetrievalParams
from xai_robustness.concepts.spectral import RevealParams
from xai_robustness.datasets.load import DataParams, dataset_info, external_files, raw_root
from xai_robustness.localization.masks import LocalizationParams
from xai_robustness.mitigation.params import MitigationParams
from xai_robustness.models.exported import SUFFIX
from xai_robustness.models.own import is_own, own_function
from xai_robustness.models.parts import PartsParams
from xai_robustness.models.pretrained import IMAGENET, weights_name
from xai_robustness.models.training import TrainingParams
from xai_robustness.models.zoo import ModelParams
from xai_robustness.robustness.comparisons import ComparisonParams
from xai_robustness.robustness.params import RobustnessParams
from xai_robustness.types import InputError, Params


class StudyParams(Params):
    """Everything that a run can be told; each field is one `params:` input of the graph."""

    study: str = Field(pattern=r"^[A-Za-z0-9_-]+$", description="name of the study, set in globals.yml")
    seed: int = Field(0, ge=0, description="seed of the run")
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?|mps)$", description="where to compute")
    data: DataParams = Field(default_factory=DataParams)
    artifact: ArtifactParams = Field(default_factory=ArtifactParams)
    model: ModelParams = Field(default_factory=ModelParams)
    training: TrainingParams = Field(default_factory=TrainingParams)
    preprocessing: PreprocessingParams = Field(default_factory=PreprocessingParams)
    parts: PartsParams = Field(default_factory=PartsParams)
    preflight: PreflightParams = Field(default_factory=PreflightParams)
    attribution_sets: AttributionSetParams = Field(default_factory=AttributionSetParams)
    reveal: RevealParams = Field(default_factory=RevealParams)
    sample_retrieval: RetrievalParams = Field(default_factory=RetrievalParams)
    localization: LocalizationParams = Field(default_factory=LocalizationParams)
    mitigation: MitigationParams = Field(default_factory=MitigationParams)
    comparisons: ComparisonParams = Field(default_factory=ComparisonParams)
    robustness_eval: RobustnessParams = Field(default_factory=RobustnessParams)

    def data_licence(self) -> str:
        """Licence of the images."""
        return dataset_info(self.data).licence


def read_parameters(raw: Mapping[str, Any]) -> StudyParams:
    """Check raw parameters.

    Raises:
        InputError: the first mistake in one sentence: an unknown key with the nearest known one, or a bad value.
    """
    try:
        return StudyParams.model_validate(dict(raw))
    except ValidationError as error:
        raise InputError(_sentence(error)) from None


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _keys_beside(tuple(str(part) for part in first["loc"]))
        close = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        return f"Unknown parameter '{name}'.{hint} There are: {', '.join(known)}."
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"Parameter '{name}': {message}"
    message = message.replace("Input should", "must").replace("Field required", "must be given")
    return f"The parameter '{name}' {message[0].lower()}{message[1:]}. Got {first['input']!r} instead."


def _keys_beside(location: tuple[str, ...]) -> list[str]:
    model: type[Params] = StudyParams
    for part in location[:-1]:
        inner = model.model_fields[part].annotation if part in model.model_fields else None
        if isinstance(inner, type) and issubclass(inner, Params):
            model = inner
    return sorted(model.model_fields)


def components_of(params: StudyParams) -> Callable[[str, str], dict[str, str]]:
    """For fingerprints: a `params:` input and a node -> the values that count there, and content of files they name."""

    def describe(name: str, node: str) -> dict[str, str]:
        key = name.removeprefix("params:")
        values = {f"parameter:{k}": str(v) for k, v in _counted(params, key, node).items()}
        return values | files_of(params, key, node)

    return describe


def _counted(params: StudyParams, key: str, node: str | None) -> dict[str, Any]:
    """Dotted name -> value of the parameters under `key` that count at a node; None: at any."""
    value = getattr(params, key)
    return _flatten(value.result_values(node) if isinstance(value, Params) else value, key)


def _flatten(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    return {k: v for key, inner in value.items() for k, v in _flatten(inner, f"{name}.{key}").items()}


def files_of(params: StudyParams, key: str, node: str | None = None) -> dict[str, str]:
    """Content hashes of the files that the parameters under `key` name, where those count at a node; None: all."""
    if key == "model":
        return network_files(params.model.name) if "model.name" in _counted(params, key, node) else {}
    if key == "data":
        return {f"file:{k}": v for k, v in external_files(params.data, raw_root()).items()}
    retrieval = params.sample_retrieval
    named = {
        "training": (params.training.checkpoint, params.training.start),
        "comparisons": params.comparisons.files,
        "reveal": (params.reveal.neurons.spurious,),
        "sample_retrieval": (*retrieval.review.csv, retrieval.cavs.given),
    }
    values = _counted(params, key, node).values()
    counted = [one for value in values for one in (value if isinstance(value, list) else [value])]
    return {
        f"file:{name}": _identity(name, params.model.name) for name in named.get(key, ()) if name and name in counted
    }


def network_files(name: str) -> dict[str, str]:
    """Hashes of what a network of one's own is made of: its exported file, or the code of its function."""
    if name.endswith(SUFFIX):
        return {f"file:{name}": _content(Path(name))}
    return {f"code:{key}": value for key, value in code_hashes(own_function(name)).items()} if is_own(name) else {}


def _identity(name: str, model: str) -> str:
    return weights_name(model) if name == IMAGENET else _content(Path(name))


def _content(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"The file '{path}' that the parameters name does not exist. Correct the path.")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
