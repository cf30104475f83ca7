"""What one does with a job: submit, answer, cancel, read, follow. Joins the pure core and the broker; knows no HTTP."""
