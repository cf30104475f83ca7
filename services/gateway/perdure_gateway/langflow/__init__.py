"""Langflow's workflows API, version 2, and what its clients need of version 1."""
