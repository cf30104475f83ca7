"""Requests and answers as other protocols have them: pure mappings, all into what `core.request.settle` judges."""
