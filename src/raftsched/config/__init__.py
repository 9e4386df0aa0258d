"""What `raftsched serve` is told: flags, environment and a TOML file, validated once into one frozen record."""

from raftsched.config.serve import ServeConfig
from raftsched.config.sources import load

__all__ = ["ServeConfig", "load"]
