"""Perdure: durable background flows that can stop for a person and go on later."""

__version__ = "0.1.0"
