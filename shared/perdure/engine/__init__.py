"""Runs authors' code against ports: remembers steps, delivers events in log order. Knows `core` alone."""
