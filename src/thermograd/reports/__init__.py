"""The report of a study or a run: one self-contained page that leads with the answer, its figures and its tables.

    folder -> collect -> conclude -> figures and tables -> report/report.html

| module | holds |
|---|---|
| `sources` | a study, or a run that stands alone |
| `collect`, `rows` | all that is read from its folder |
| `conclusions` | statistics of it: contrasts, the noise floor, the association of distance and variance |
| `words`, `opening` | numbers and sentences; the first screen |
| `tables`, `layout` | the tables, and how they fit the page |
| `style` | colours, and figures that are drawn wide and narrow |
| `drawing`, `against` | the three plots on axes, and as figures |
| `parts`, `comparisons`, `temperatures` | the other figures |
| `gallery` | samples, their nearest training images, reconstructions |
| `page` | files and the page |
| `plots` | the plots as functions |
"""

from thermograd.reports.page import write_report

__all__ = ["write_report"]
