"""How well a system does: metrics, protocols and reports."""
