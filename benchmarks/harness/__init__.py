"""What every benchmark stands on: rounds that alternate, medians, what a process costs, the machine, the report.

To add a benchmark, write `async def measure(bench: Bench) -> Outcome` in a module of its own, and name it in
`benchmarks/__main__.py` as a `Benchmark`. `bench` brings a folder for whatever it starts, the number of rounds, and a
way to say what is going on. Give `interleaved` the contenders (what is compared, each a function that runs once and
returns its figures), then build from the `Rounds` that come back:

- `figures`, which are merged into the report as they are. Ratios of one run are what holds on another machine:
  `Rounds.ratio` compares round by round.
- `tables`, for people.

What is measured is checked: a contender raises `Wrong` when its work was not done, and no figure comes of it.
Figures are named with their unit last (`p99_ms`, `cpu_us`, `rss_mb`), rates `…per_second`. Nothing asserts a time: a
machine may be slow.
"""
