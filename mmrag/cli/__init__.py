"""The command line. Results go to stdout, progress and warnings to stderr.

Exit codes: 0 done, 1 an error that is told in one line, 2 wrong usage, 130 stopped by Ctrl-C.
"""
