"""Executes jobs: pulls doorbells, claims by appending to the log, runs flows, acks last."""
