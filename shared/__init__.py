"""What every service stands on. Knows no domain rule of any service."""
