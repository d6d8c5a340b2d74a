"""What a load's figures should be, as ratios durably : temporal."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Aim:
    """The ratio should be at least, or at most, the bound; `says` is it in words."""

    bound: float
    at_least: bool
    says: str

    def met(self, ratio: float) -> bool:
        return ratio >= self.bound if self.at_least else ratio <= self.bound

    def __str__(self) -> str:
        return f">= {self.bound:g}" if self.at_least else f"<= 1/{1 / self.bound:g}"


@dataclass(frozen=True, slots=True)
class Aims:
    """Of one load. None: it is measured, and nothing is aimed at."""

    throughput: Aim | None = None
    latency: Aim | None = None
    cpu: Aim | None = None


THROUGHPUT = Aim(5, at_least=True, says="throughput at least 5 times Temporal's")
CPU = Aim(1 / 8, at_least=False, says="server CPU per action at most 1/8 of Temporal's")
STEP_LATENCY = Aim(1 / 6, at_least=False, says="sequential step latency at most 1/6 of Temporal's")
OPERATIONS = Aim(3, at_least=True, says="throughput of operations at least 3 times Temporal's")
OPERATION_CPU = Aim(
    1 / 3, at_least=False, says="server CPU of operations at most 1/3 of Temporal's"
)
ROUND_TRIP = Aim(1 / 3, at_least=False, says="round trip of an operation at most 1/3 of Temporal's")
ALL = (THROUGHPUT, CPU, STEP_LATENCY, OPERATIONS, OPERATION_CPU, ROUND_TRIP)

MANY_ACTIONS = Aims(throughput=THROUGHPUT, cpu=CPU)
STEPS_ALONE = Aims(latency=STEP_LATENCY, cpu=CPU)
MANY_OPERATIONS = Aims(throughput=OPERATIONS, cpu=OPERATION_CPU)
OPERATIONS_ALONE = Aims(latency=ROUND_TRIP, cpu=OPERATION_CPU)
NONE = Aims()
