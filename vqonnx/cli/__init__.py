"""The command line: one command a file; what computes is imported inside the commands, so that help is quick."""
