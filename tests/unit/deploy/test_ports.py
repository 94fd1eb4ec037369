import subprocess
import sys

from deploy.local.ports import free_port

ASK = "from deploy.local.ports import free_port; print(*(free_port() for _ in range(600)), flush=True); input()"


def test_no_two_processes_are_given_the_same_port_nor_one_twice_the_same() -> None:
    others = [
        subprocess.Popen([sys.executable, "-c", ASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    given = [free_port() for _ in range(600)]
    for other in others:
        assert other.stdout is not None
        given += map(int, other.stdout.readline().split())
    for other in others:
        other.communicate("\n")
    assert len(given) == 4 * 600
    assert len(set(given)) == len(given)
