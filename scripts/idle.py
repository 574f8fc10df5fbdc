"""How busy others keep this machine: a measurement beside other work says little."""

import os
import time

BUSY = 0.1  # share of the machine in others' use from which on it is said
PATIENCE = 120  # seconds to wait for less


class Stopwatch:
    """Seconds since it was made, and the share of the machine others used meanwhile."""

    def __init__(self):
        self._start, self._others = time.perf_counter(), _others_seconds()

    def seconds(self) -> float:
        return time.perf_counter() - self._start

    def others(self) -> float:
        """A share of all processors; 0 where the system does not say."""
        used = _others_seconds() - self._others
        return max(used, 0) / self.seconds() / (os.cpu_count() or 1)


def wait_until_idle() -> None:
    """Return when others leave the machine alone, or with a warning after a while."""
    for waited in range(0, PATIENCE, 2):
        watch = Stopwatch()
        time.sleep(2)
        if watch.others() <= BUSY:
            return
        if not waited:
            print(
                f"others use {watch.others():.0%} of the machine: waiting", flush=True
            )
    print("warning: the machine is not idle: these times say little")


def _others_seconds() -> float:
    """Processor seconds that were used by other processes than this one."""
    try:
        with open("/proc/stat") as file:
            user, nice, system, _, _, *rest = map(int, file.readline().split()[1:9])
    except OSError:
        return 0.0
    busy = (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")
    return busy - time.process_time()
