"""Langflow's workflows API over our log: its words, shapes and rules. Pure."""
