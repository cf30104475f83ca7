"""The functions behind a graph's nodes, one module for each kind; `registry` pairs them with the catalogue."""
