"""A parser under atheris: `python -m tests.fuzz.under_atheris PARSER [option of libFuzzer ...] CORPUS`.

libFuzzer ends the process at the first exception, and leaves what made it raise in a file at `-artifact_prefix`.
"""

import sys

import atheris

with atheris.instrument_imports(include=["deploy.local.pdu", "services.notify.providers", "shared.bus.recordbatch"]):
    from tests.fuzz.harnesses import PARSERS

if __name__ == "__main__":
    harness, _ = PARSERS[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], harness)
    atheris.Fuzz()
