"""Which choice works: grid, run store, execution, and the table of what came out."""

from .measuring import Measured as Measured
from .outcomes import Outcome as Outcome
from .outcomes import Reference as Reference
from .plan import Plan as Plan
from .plan import plan_study as plan_study
from .ray_cluster import run_on_ray as run_on_ray
from .reading import StudyResult as StudyResult
from .reading import read_outcomes as read_outcomes
from .running import describe as describe
from .running import prepare as prepare
from .running import run_study as run_study
from .search import Search as Search
from .searching import Searcher as Searcher
from .store import Store as Store
from .study import Study as Study
from .study import read_study as read_study
from .study_costs import StudyCosts as StudyCosts
from .table import Block as Block
from .table import StudyRow as StudyRow
from .table import StudyTable as StudyTable
from .table import study_table as study_table
from .table_file import table_csv as table_csv
from .table_file import write_csv as write_csv
from .watching import Watch as Watch
