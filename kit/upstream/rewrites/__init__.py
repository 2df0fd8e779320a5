"""One rewrite a file; each exports ``REWRITE``."""
