"""Names the office that has to answer a request, and the day by which; tells of those that are not answered by then."""
