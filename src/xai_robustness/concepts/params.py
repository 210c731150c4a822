"""Parameters of sample_retrieval."""

from typing import Annotated

from pydantic import Field

from xai_robustness.concepts.cav import CavParams
from xai_robustness.concepts.refinement import EffortParams
from xai_robustness.concepts.review import ReviewParams
from xai_robustness.types import Params, UsedBy


class RetrievalParams(Params):
    """How samples are reviewed and concept vectors fitted."""

    review: Annotated[ReviewParams, UsedBy("review_suspects", "refine_labels", "propose_samples")] = Field(
        default_factory=ReviewParams, description="the reviewer and the budget"
    )
    cavs: Annotated[CavParams, UsedBy("fit_cavs", "score_samples")] = Field(
        default_factory=CavParams, description="layers and kinds of vectors"
    )
    effort: Annotated[EffortParams, UsedBy("measure_effort")] = Field(
        default_factory=EffortParams, description="how the label effort is measured"
    )
