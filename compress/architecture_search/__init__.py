"""How deep and how wide: a search for networks that cost little and are good (extra `search`)."""

from compress.architecture_search.report import Report as Report
from compress.architecture_search.search import Effort as Effort
from compress.architecture_search.search import Settings as Settings
from compress.architecture_search.search import search as search
