"""How much processor time each process of an exchange spends on an order."""

from dataclasses import dataclass, field

import psutil
from rich.table import Table

from bench.runner import table_of
from exchange.stack.host.child import ManagedProcess


@dataclass
class Spent:
    """Processor time of each process and its children while orders were sent, in seconds."""

    processes: list[ManagedProcess]
    seconds: dict[str, float] = field(default_factory=dict)
    orders: int = 0
    _begun: dict[str, float] = field(default_factory=dict)

    def begin(self) -> None:
        """Count from now on."""
        self._begun = self._now()

    def end(self, orders: int) -> None:
        """Add what was spent since ``begin``, on this many orders."""
        self.orders += orders
        for name, now_s in self._now().items():
            self.seconds[name] = self.seconds.get(name, 0.0) + now_s - self._begun[name]

    def us_per_order(self) -> dict[str, float]:
        """Return the microseconds that each process spent on an order, the most first."""
        most_first = sorted(self.seconds.items(), key=lambda item: -item[1])
        return {name: seconds / self.orders * 1e6 for name, seconds in most_first}

    def table(self) -> Table:
        """Return the same for people, with the sum."""
        table = table_of("process", "cpu us per order")
        for name, us in self.us_per_order().items():
            table.add_row(name, f"{us:,.0f}")
        table.add_row("all", f"{sum(self.us_per_order().values()):,.0f}")
        return table

    def _now(self) -> dict[str, float]:
        return {process.name: cpu_s(process.pid) for process in self.processes}


def cpu_s(pid: int) -> float:
    """Return the processor time that a process and its children have used."""
    process = psutil.Process(pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(one.user + one.system for one in times)
