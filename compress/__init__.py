"""Make a trained network smaller and faster, inside a bound on what it may lose.

Nothing is imported here: ``compress.search.compress`` does the whole job, and every technique
also stands alone in its family's folder.
"""
