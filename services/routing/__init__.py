"""Names the office that has to answer a request, and the day by which."""
