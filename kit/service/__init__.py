"""The life of the service: what to run, up, upgrade, status, and what is known when it failed."""
