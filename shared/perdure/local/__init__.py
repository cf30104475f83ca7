"""One machine: the embedded broker and the supervisor behind `perdure up`."""
