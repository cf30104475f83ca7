"""What runs in the children of a runner beside flow code: all that imports lfx (the extra `perdure[langflow]`)."""
