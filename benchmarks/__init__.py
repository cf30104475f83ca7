"""Measurements of a whole Perdure on this machine: `make bench`, one JSON line per figure."""
