"""The HTTP face of Perdure: REST and server-sent events over the job logs."""
