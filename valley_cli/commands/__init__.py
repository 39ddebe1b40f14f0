"""One module per command, each with an ``app``; imported only when the command is run."""
