"""Runs Langflow flow files with lfx: each pass in a child process of its own, its journal in the job's log."""
