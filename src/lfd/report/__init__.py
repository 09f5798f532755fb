"""What a run or a sweep leaves to read: tables, pictures, pages, films."""

from lfd.report.curves import curves
from lfd.report.film import save_film
from lfd.report.rewards import draw_rewards
from lfd.report.run_page import report_html
from lfd.report.sweep import sweep_json, sweep_table
from lfd.report.sweep_page import sweep_html
from lfd.report.table import table

__all__ = ["curves", "draw_rewards", "report_html", "save_film", "sweep_html", "sweep_json", "sweep_table", "table"]
