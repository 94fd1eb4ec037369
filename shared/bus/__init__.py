"""The batch loop and the one file that names broker options."""
