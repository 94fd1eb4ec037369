"""What passes between agencies, services and operators: events, topics, reasons. Pure data, no I/O."""
