"""The command line: words in, exit codes out; no torch before a command needs it."""
