"""Other tools' module names, functions and defaults over this package's own code."""
