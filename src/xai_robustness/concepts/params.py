"""Parameters of sample_retrieval."""

from pydantic import Field

from xai_robustness.concepts.cav import CavParams
from xai_robustness.concepts.refinement import EffortParams
from xai_robustness.concepts.review import ReviewParams
from xai_robustness.types import Params


class RetrievalParams(Params):
    """How samples are reviewed and concept vectors fitted."""

    review: ReviewParams = Field(default_factory=ReviewParams, description="the reviewer and the budget")
    cavs: CavParams = Field(default_factory=CavParams, description="layers and kinds of vectors")
    effort: EffortParams = Field(default_factory=EffortParams, description="how the label effort is measured")
