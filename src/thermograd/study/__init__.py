"""Studies: many runs from one file, each the same whoever does it and however often it dies.

    study file -> plan (runs and what they cost) -> study folder -> Dask workers -> a table

| module | holds |
|---|---|
| `file` | the study file, typed and checked before anything runs |
| `arms` | the arms that come ready, and what a config costs in generator evaluations |
| `plan` | arms x cells x seeds -> runs; what is held equal |
| `costs` | hours of training and of measuring, from a few steps |
| `folder` | the study folder: which runs it has, and how it grows |
| `status` | where each run stands, and the time left |
| `attempts` | who works on a run: claims, heartbeats, takeovers |
| `work` | the procedure of one run, in a process of its own |
| `engine` | runs dealt out to Dask workers, with bounded retries |
| `results` | one table of all runs, and SQL over the folders |
"""

from thermograd.study.file import StudyFile, read_study_file
from thermograd.study.results import load_study, query_study, write_tables

__all__ = ["StudyFile", "load_study", "query_study", "read_study_file", "write_tables"]
