"""A mover where answers come by calls, in any order, instead of on an event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto import errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.moves.mover import Ask, Outcome, Steps
    from proto.internal import frames_pb2 as frames

    Answer = frames.Reply | errors.BoathouseError
    Send = Callable[[Ask, Callable[[Answer], None]], None]
    """Asks, and sees to it that the answer is told."""


class Mover:
    """Asks as TableMoves does, but what is ahead only now and then."""

    def __init__(
        self,
        steps: Steps,
        send: Send,
        ended: Callable[[Outcome | None], None],
        *,
        asks_ahead: Callable[[], bool],
    ) -> None:
        """ended: is told the outcome, None if the mover does not get on. Asks at once."""
        self._steps = steps
        self._send = send
        self._ended = ended
        self._asks_ahead = asks_ahead
        self._asked: dict[object, list[Answer]] = {}
        """What is under way, by its question, with the answer once that has come."""
        self._waits_for: object = None
        self._go_on(lambda: next(self._steps))

    def _go_on(self, step: Callable[[], Ask]) -> None:
        try:
            ask = step()
        except StopIteration as end:
            self._ended(end.value)
        except errors.BoathouseError:
            self._ended(None)
        else:
            self._ask(ask)

    def _ask(self, ask: Ask) -> None:
        before, self._asked = self._asked, {}
        self._waits_for = ask.question
        for one in (ask, *ask.ahead):
            if one.question in before:
                self._asked[one.question] = before[one.question]
            elif one is ask or self._asks_ahead():
                answers = self._asked[one.question] = []
                self._send(one, self._hearing(answers))
        self._look()

    def _hearing(self, answers: list[Answer]) -> Callable[[Answer], None]:
        def hear(answer: Answer) -> None:
            answers.append(answer)
            self._look()

        return hear

    def _look(self) -> None:
        """Goes on, if the answer has come that is waited for."""
        answers = self._asked.get(self._waits_for)
        if not answers:
            return
        del self._asked[self._waits_for]
        (answer,) = answers
        if isinstance(answer, errors.BoathouseError):
            self._go_on(lambda: self._steps.throw(answer))
        else:
            self._go_on(lambda: self._steps.send(answer))
