"""How deep and how wide: a search for networks that cost little and are good (extra `search`).

Nothing is imported here, so that a worker need not load what only the search itself does;
``search.search`` is where to begin.
"""
