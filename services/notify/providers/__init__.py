"""The ways to send: SMPP 3.4 and SMTP."""
