"""The command line: one thin file a command, shared options in `options`, errors mapped to exit codes in `main`."""
