"""Callbacks that follow an execution: told of each change of what they follow, in order, and of the end last."""

from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.common.v1 import message_pb2 as common
from temporalio.api.failure.v1 import message_pb2 as failure

from durably.engine import workflow_options
from durably.engine.callback import machine
from durably.engine.callback.state import (
    BACKING_OFF,
    FAILED,
    FOLLOWS_HEADER,
    SCHEDULED,
    STANDBY,
    SUCCEEDED,
    Callback,
)
from durably.engine.transition import InvokeCallback, debts, outstanding
from tests.engine.lives import (
    CONFIG,
    WorkflowLife,
    complete_workflow,
    continue_as_new,
    fail_workflow,
)
from tests.engine.test_callback import ACCEPTED, about_update, admit
from tests.engine.test_commands import modify
from tests.engine.test_reset import reset_to

ID = "request-0"
SAID = common.Payload(data=b"said")


def follower(fields: str = "asks,shows", path: str = "x") -> common.Callback:
    url = f"https://a.example/{path}"
    return common.Callback(nexus=common.Callback.Nexus(url=url, header={FOLLOWS_HEADER: fields}))


def followed(**options: object) -> WorkflowLife:
    return WorkflowLife(completion_callbacks=[follower()], **options)


def says(life: WorkflowLife, *fields: str) -> int:
    """The workflow changes fields of its memo, each with a command. Returns the last event's id."""
    if life.state.workflow_task is None:
        life.signal()
    life.work(*(modify(**{name: SAID}) for name in fields))
    return life.events[-1].event_id


def only(life: WorkflowLife) -> Callback:
    (found,) = life.state.callbacks.values()
    return found


def is_owed(life: WorkflowLife) -> bool:
    return InvokeCallback(only(life).callback_id) in outstanding(life.state)


def told(life: WorkflowLife, event_id: int, refused: str = "") -> None:
    callback = only(life)
    life.step(machine.told, callback.callback_id, callback.attempt + 1, event_id, refused)


def test_a_change_of_what_is_followed_is_owed_until_it_is_told() -> None:
    life = followed()
    assert only(life).follows == ("asks", "shows")
    event_id = says(life, "asks")
    assert (only(life).state, only(life).has_news, is_owed(life)) == (SCHEDULED, True, True)
    assert (only(life).told_event_id, only(life).news_event_id) == (event_id - 1, event_id)
    told(life, event_id)
    assert (only(life).state, only(life).has_news, is_owed(life)) == (STANDBY, False, False)
    life.signal()
    life.work(complete_workflow())
    assert (only(life).state, only(life).outcome_event_id) == (SCHEDULED, life.state.close_event_id)
    life.step(machine.succeeded, ID, 1)
    assert only(life).state == SUCCEEDED


def test_other_changes_are_no_news_and_others_are_not_told() -> None:
    life = followed()
    says(life, "colour")
    assert only(life).state == STANDBY
    plain = WorkflowLife(
        completion_callbacks=[common.Callback(nexus={"url": "https://a.example/"})]
    )
    says(plain, "asks")
    assert (only(plain).follows, only(plain).state) == ((), STANDBY)


def test_more_news_are_told_after_those_before() -> None:
    life = followed()
    first = says(life, "asks")
    last = says(life, "shows", "asks")
    assert (only(life).told_event_id, only(life).news_event_id) == (first - 1, last)
    told(life, first)
    assert InvokeCallback(ID) in life.effects, "it goes on with the rest"
    assert only(life).state == SCHEDULED
    told(life, last)
    assert only(life).state == STANDBY


def test_the_end_comes_after_the_news() -> None:
    life = followed()
    event_id = says(life, "asks")
    life.signal()
    life.work(complete_workflow())
    assert only(life).has_news
    assert only(life).outcome_event_id == life.state.close_event_id
    told(life, event_id)
    assert (only(life).state, only(life).attempt, only(life).has_news) == (SCHEDULED, 0, False)
    assert debts(life.state) == [InvokeCallback(ID)], "the end has its chance before it is removed"
    life.step(machine.failed, ID, 1, "gone", retryable=False)
    assert only(life).state == FAILED


def test_news_that_nobody_takes_are_told_again_later_and_later() -> None:
    life = followed()
    event_id = says(life, "asks")
    life.step(machine.failed, ID, 1, "busy", retryable=True)
    assert only(life).state == BACKING_OFF
    says(life, "shows")
    assert only(life).state == BACKING_OFF, "more news wait for their turn"
    life.wait(1)
    assert is_owed(life)
    life.step(machine.failed, ID, 2, "busy", retryable=True)
    life.signal()
    life.work(complete_workflow())
    assert not is_owed(life)
    life.wait(2)
    assert is_owed(life)
    told(life, event_id)
    assert (only(life).attempt, only(life).last_failure) == (0, b"")


def test_news_that_are_refused_for_good_are_left_out() -> None:
    life = followed()
    event_id = says(life, "asks")
    told(life, event_id, "no such task")
    reason = failure.Failure.FromString(only(life).last_failure)
    assert (reason.message, only(life).state) == ("no such task", STANDBY)
    assert reason.application_failure_info.non_retryable
    later = says(life, "asks")
    assert (only(life).told_event_id, only(life).news_event_id) == (later - 1, later)


def test_an_answer_to_another_attempt_tells_nothing() -> None:
    life = followed()
    event_id = says(life, "asks")
    life.step(machine.told, ID, 2, event_id)
    life.step(machine.told, "unknown", 1, event_id)
    assert only(life).has_news


def test_the_run_that_follows_tells_what_it_says_itself() -> None:
    life = followed()
    event_id = says(life, "asks")
    life.signal()
    life.work(continue_as_new())
    following = life.follow()
    assert (only(following).state, only(following).follows) == (STANDBY, ("asks", "shows"))
    assert is_owed(life), "what the run before has said it tells itself"
    told(life, event_id)
    assert only(life).state == STANDBY, "and not an end that is none"
    later = says(following, "asks")
    told(following, later)
    following.signal()
    following.work(complete_workflow())
    assert is_owed(following)


def test_a_retry_is_not_an_end() -> None:
    life = followed(retry_policy={"maximum_attempts": 2})
    event_id = says(life, "asks")
    life.signal()
    life.work(fail_workflow())
    told(life, event_id)
    assert only(life).state == STANDBY
    assert only(life.follow()).state == STANDBY


def test_a_reset_tells_nothing_a_second_time() -> None:
    life = followed()
    says(life, "asks")
    life.signal()
    life.work()
    new = reset_to(life, life.events[-1].event_id)
    assert (only(new).state, only(new).has_news) == (STANDBY, False)
    assert is_owed(life)
    new.work(modify(asks=SAID))
    assert only(new).has_news
    assert only(new).told_event_id == new.events[-1].event_id - 1


# --- Removed ----------------------------------------------------------------------------------


def test_one_that_is_removed_is_told_nothing() -> None:
    life = followed()
    says(life, "asks")
    life.step(machine.removed, ID)
    life.step(machine.removed, ID)
    life.step(machine.told, ID, 1, 5)
    life.signal()
    life.work(complete_workflow())
    assert not life.state.callbacks
    assert outstanding(life.state) == []


def test_one_that_is_removed_is_not_handed_on() -> None:
    life = followed()
    life.step(machine.removed, ID)
    life.work(continue_as_new())
    assert not life.follow().state.callbacks


def test_a_reset_does_not_bring_back_what_was_removed() -> None:
    life = WorkflowLife(completion_callbacks=[follower(path="gone"), follower(path="stays")])
    life.work()
    life.step(workflow_options.attach, "later", [follower(path="gone too")], [], CONFIG)
    plain = common.Callback(nexus={"url": "https://a.example/plain"})
    life.step(workflow_options.attach, "plain", [plain], [], CONFIG)
    for callback_id in (ID, "later-0"):
        life.step(machine.removed, callback_id)
    new = reset_to(life, 4)
    assert list(new.state.callbacks) == ["request-1", "plain-0"]


def test_one_that_waits_for_an_update_follows_nothing() -> None:
    life = WorkflowLife()
    admit(life, "u", "asked", follower())
    life.work(messages=[about_update("u", ACCEPTED)])
    says(life, "asks")
    assert (only(life).follows, only(life).state) == ((), STANDBY)


# --- Whatever happens -------------------------------------------------------------------------

STEPS = ("asks", "shows", "other", "taken", "refused", "lost", "died", "wait", "late")


@given(st.lists(st.sampled_from(STEPS), max_size=30))
def test_all_is_told_in_order_and_the_end_last(life_of_it: list[str]) -> None:
    """The receiver has each thing at least once, and what it has first is in the order of the history."""
    life = followed()
    heard: list[int] = []
    said: list[int] = []

    def tell(how: str) -> None:
        callback = only(life)
        if callback.state != SCHEDULED:
            return
        attempt = callback.attempt + 1
        if not callback.has_news:
            heard.append(callback.outcome_event_id)
            life.step(machine.succeeded, ID, attempt)
            return
        news = [i for i in said if callback.told_event_id < i <= callback.news_event_id]
        if how in ("taken", "died", "lost"):
            heard.append(news[0])
        if how == "taken":
            life.step(machine.told, ID, attempt, news[0])
        elif how == "refused":
            said.remove(news[0])
            life.step(machine.told, ID, attempt, news[0], "no")
        elif how == "lost":
            life.step(machine.failed, ID, attempt, "no reply", retryable=True)

    for step in life_of_it:
        if step in ("asks", "shows", "other"):
            event_id = says(life, step)
            said += [event_id] if step != "other" else []
        elif step == "wait":
            life.wait(60)
        elif step == "late":
            life.step(machine.told, ID, only(life).attempt, only(life).news_event_id)
        else:
            tell(step)
        assert is_owed(life) == (only(life).state == SCHEDULED)
        assert only(life).has_news == (only(life).state in (SCHEDULED, BACKING_OFF))
    life.terminate()
    while only(life).state != SUCCEEDED:
        life.wait(3600)
        tell("taken")
    first_heard = list(dict.fromkeys(heard))
    assert [i for i in first_heard if i in said] == said
    assert first_heard[-1] == life.state.close_event_id
    assert sorted(first_heard) == first_heard
