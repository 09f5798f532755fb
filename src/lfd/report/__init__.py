"""Reports of runs and sweeps: tables, pictures, pages and films."""

from lfd.report.curves import draw_curves
from lfd.report.film import save_film
from lfd.report.rewards import draw_rewards
from lfd.report.run_page import report_html
from lfd.report.sweep import sweep_json, sweep_table
from lfd.report.sweep_page import sweep_html
from lfd.report.table import result_table

__all__ = [
    "draw_curves",
    "draw_rewards",
    "report_html",
    "result_table",
    "save_film",
    "sweep_html",
    "sweep_json",
    "sweep_table",
]
