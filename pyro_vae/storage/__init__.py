"""Files and folders of files: they hold modules and plain data, and run no code."""
