"""The report of a study: one self-contained page that leads with the answer, its figures and its tables.

    study folder -> collect -> conclude -> figures and tables -> report/report.html

| module | holds |
|---|---|
| `collect` | all that is read from the study folder |
| `conclusions` | statistics of it: contrasts, the noise floor, the association of distance and variance |
| `words` | numbers and sentences |
| `tables` | the tables |
| `style` | colours, and figures that are drawn wide and narrow |
| `curves`, `comparisons`, `scatter` | the figures |
| `page` | files and the page |
"""

from thermograd.reports.page import write_report

__all__ = ["write_report"]
