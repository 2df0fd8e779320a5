"""To machines without a network, and back to upstream: bundles and exports."""
