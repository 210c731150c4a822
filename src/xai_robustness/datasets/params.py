"""Which data set a study uses, and how much of it."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from xai_robustness.datasets.medmnist import MEDMNIST_2D, SIZES, check_flag
from xai_robustness.datasets.readers import READERS
from xai_robustness.types import NEUTRAL, InputError, Params, Split

IDS_PER_SPLIT = 10_000_000


class DataParams(Params):
    """Which data set, at which size, and how much of it.

    The phantom and the MedMNIST flags use `size` and the counts alone. The other data sets are read from files in their
    official layouts (`docs/data_sets.md`).
    """

    name: str = Field(default="phantom", description="phantom, a 2-D MedMNIST flag, or a data set read from files")
    size: int = Field(default=28, ge=16, le=1024, description="image side in pixels; MedMNIST: 28, 64, 128 or 224")
    n_train: int | None = Field(default=None, ge=1, lt=IDS_PER_SPLIT, description="training samples; null: all")
    n_val: int | None = Field(default=None, ge=1, lt=IDS_PER_SPLIT, description="validation samples; null: all")
    n_test: int | None = Field(default=None, ge=1, lt=IDS_PER_SPLIT, description="test samples; null: all")
    folder: str | None = Field(default=None, description="folder of the files, below the raw data or absolute")
    classes: list[str] | dict[str, list[str]] | None = Field(
        default=None, description="classes kept, or name -> official classes joined under it; null: all"
    )
    target: str | None = Field(default=None, description="which of the data set's label sets; null: its usual one")
    val_share: float = Field(default=0.1, gt=0, lt=1, description="validation share where no split is official")
    test_share: float = Field(default=0.1, gt=0, lt=1, description="test share where no split is official")
    split_seed: int = Field(default=0, ge=0, description="seed of the split; it does not follow the seed of a run")
    artifact_labels: str | None = Field(
        default=None, description="JSON {artifact: [image]} or CSV (image, artifact) of real artifacts"
    )
    skip_bad: bool = Field(default=False, description="leave out files that cannot be read instead of stopping")
    gray: bool = Field(default=False, description="one channel instead of three")
    table: str | None = Field(default=None, description="folder: the CSV; null: one folder of images a class")
    image_column: str = Field(default="image", description="folder: column of file names")
    label_column: str = Field(default="label", description="folder: column of class names, several joined by |")
    split_column: str | None = Field(default=None, description="folder: column with train, val or test")
    group_column: str | None = Field(default=None, description="folder: column of patients; each stays in one split")
    rate: Literal[100, 500] = Field(default=100, description="ptbxl: sampling rate in Hz")
    workers: Annotated[int | None, NEUTRAL] = Field(
        default=None, ge=1, description="files decoded at once; null: cores"
    )

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name == "phantom" or name in MEDMNIST_2D or name in READERS:
            return name
        try:
            return check_flag(name)
        except InputError as error:
            raise InputError(f"{error} Or phantom, or from files: {', '.join(READERS.names())}.") from None

    @model_validator(mode="after")
    def _fit_together(self) -> "DataParams":
        if not self.from_files and self.size not in SIZES:
            choices = ", ".join(map(str, SIZES))
            raise InputError(f"The size parameter of DataParams must be one of {choices}. Got {self.size} instead.")
        if self.val_share + self.test_share >= 1:
            raise InputError(
                f"The val_share and test_share parameters of DataParams must leave something to train on. "
                f"Got {self.val_share} and {self.test_share} instead."
            )
        return self

    @property
    def from_files(self) -> bool:
        """Whether the data set is a table with one file a sample."""
        return self.name in READERS

    def count(self, split: Split) -> int | None:
        """Number of samples asked for in `split`; None means all (for the phantom: its default)."""
        return {"train": self.n_train, "val": self.n_val, "test": self.n_test}[split]
