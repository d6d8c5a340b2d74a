"""What the agents have agreed on: where each lives, and what it may be asked for.

This is all that they share. Each has a namespace of its own, and is called through a Nexus endpoint of the same
name; who calls needs neither its code nor the address of its workers.
"""

from nexusrpc import Operation, service
from pydantic import BaseModel

PLANNING, RESEARCH, CODE, REVIEW = "planning", "research", "code", "review"
NAMESPACES = (PLANNING, RESEARCH, CODE, REVIEW)
TASK_QUEUE = "agent"


class Question(BaseModel):
    question: str


class Order(BaseModel):
    """What to write; with what was written before, if it has to be changed."""

    task: str
    facts: list[str] = []
    before: str = ""


class Written(BaseModel):
    code: str
    test: str


class Verdict(BaseModel):
    approved: bool
    remarks: str


class Delivery(BaseModel):
    """What the planner's workflow returns."""

    summary: str
    written: Written | None = None
    verdict: Verdict | None = None


@service(name="Research")
class Research:
    investigate: Operation[Question, str]


@service(name="Code")
class Code:
    write: Operation[Order, Written]


@service(name="Review")
class Review:
    judge: Operation[Order, Verdict]
