"""What it shows: tables for the terminal, figures, and the page of a run, from stored files and without the model."""

from .canvas import save_figure as save_figure
from .decision_figures import abstention_costs as abstention_costs
from .decision_figures import cost_curves as cost_curves
from .decision_figures import risk_coverage_curves as risk_coverage_curves
from .decision_figures import threshold_plot as threshold_plot
from .figures import learning_curves as learning_curves
from .figures import reliability_diagram as reliability_diagram
from .figures import state_intervals as state_intervals
from .page import write_report as write_report
from .study_figures import study_figures as study_figures
from .study_latex import table_tex as table_tex
from .study_report import write_study as write_study
from .study_report import write_study_report as write_study_report
from .study_terminal import study_result_table as study_result_table
from .study_words import study_findings as study_findings
from .tables import result_rows as result_rows
from .terminal import metrics_table as metrics_table
from .terminal import result_table as result_table
from .words import verdict_sentences as verdict_sentences
