"""One log, several protocols: how events and deltas look to those who follow a job. Pure."""
