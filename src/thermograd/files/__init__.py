"""Files: written whole or not at all, read with limits and errors that name them, held by one process at a time.

| module | holds |
|---|---|
| `writing` | files that are whole or absent, and on the disk |
| `reading` | one reader each for text, YAML, JSON and lines of JSON |
| `locks` | who is at work in a folder |
| `caches` | the one folder of caches |
"""

from thermograd.files.caches import cache_folder
from thermograd.files.locks import LOCK, birth, hold, host_name, is_running, this_process
from thermograd.files.reading import parse_json, parse_yaml, read_json, read_json_lines, read_text, read_yaml
from thermograd.files.writing import (
    append_line,
    begun_writing,
    hash_of,
    make_folder,
    make_readable,
    remove_leftovers,
    sha256,
    sync,
    write_atomically,
    written_whole,
)

__all__ = [
    "LOCK",
    "append_line",
    "begun_writing",
    "birth",
    "cache_folder",
    "hash_of",
    "hold",
    "host_name",
    "is_running",
    "make_folder",
    "make_readable",
    "parse_json",
    "parse_yaml",
    "read_json",
    "read_json_lines",
    "read_text",
    "read_yaml",
    "remove_leftovers",
    "sha256",
    "sync",
    "this_process",
    "write_atomically",
    "written_whole",
]
