"""Self-contained HTML pages from plain data; matplotlib (extra ``report``) draws the plots."""
