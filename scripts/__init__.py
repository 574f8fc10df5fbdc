"""The command lines: flags, one library call, one line of error."""
