"""Files shipped with the package: the documented example configuration and the built-in cluster."""
