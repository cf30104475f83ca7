"""The routes, one module a resource. Each names its paths in `ROUTES`; `app.py` puts them together."""
