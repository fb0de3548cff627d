"""Which choice works: grid, run store, execution, and what the outcomes of a study say."""

from .measuring import Measured as Measured
from .outcomes import Outcome as Outcome
from .outcomes import Reference as Reference
from .reading import StudyResult as StudyResult
from .reading import read_outcomes as read_outcomes
from .table import Block as Block
from .table import StudyRow as StudyRow
from .table import StudyTable as StudyTable
from .table import study_table as study_table
from .table_file import table_csv as table_csv
from .table_file import write_csv as write_csv
