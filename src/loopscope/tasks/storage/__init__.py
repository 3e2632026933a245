"""How puzzle sets are kept: CSV files, folders in the official layout, and the files that are shipped."""
