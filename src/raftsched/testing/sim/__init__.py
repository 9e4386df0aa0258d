"""A whole cluster on one thread, in virtual time, from one seed; docs/simulation.md tells what is real and what is replaced."""
