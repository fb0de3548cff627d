"""Which choice works: grid, run store, execution, and the table of what came out."""

from .plan import Plan as Plan
from .plan import plan_study as plan_study
from .ray_cluster import run_on_ray as run_on_ray
from .reading import StudyResult as StudyResult
from .reading import read_outcomes as read_outcomes
from .running import describe as describe
from .running import prepare as prepare
from .running import run_study as run_study
from .store import Store as Store
from .study import Study as Study
from .study import read_study as read_study
from .watching import Watch as Watch
