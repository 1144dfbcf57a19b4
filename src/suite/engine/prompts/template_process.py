"""The process that renders a model's chat template: ``python -m suite.engine.prompts.template_process FD``.

`suite.engine.prompts.rendering` starts it, explains why it exists, and sends it messages over the socket FD.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

import msgspec

from suite.confinement.confinement import Rights, confine
from suite.engine.prompts.chat import ChatTemplate
from suite.engine.prompts.rendering import TEXT_BYTES, Render, Rendered, Setup
from suite.errors import InvalidChat

_MIB = 1 << 20
_NO_TOOLS = (
    "the model's chat template knows of no tools: send the chat without them, or configure a chat_template"
)

_decode = msgspec.json.Decoder(Setup | Render).decode
_encode = msgspec.json.Encoder().encode


def main() -> None:
    """Answer messages until the other end closes the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    templates: list[ChatTemplate] = []
    setup: Setup | None = None
    while True:
        try:
            request = _decode(connection.recv_bytes())
        except EOFError:
            return
        if isinstance(request, Setup):
            setup = request
            os.nice(setup.nice)
            if setup.confined:
                confine(Rights())
            _limit_memory(setup.memory_bytes)
        assert setup is not None
        answer = _answered(request, templates, setup)
        try:
            data = _encode(answer)
        except MemoryError:
            data = _encode(_too_much(setup))
        connection.send_bytes(data)


def _answered(request: Setup | Render, templates: list[ChatTemplate], setup: Setup) -> Rendered:
    if isinstance(request, Render) and request.quick_seconds is not None:
        return _quickly(request, templates, setup, request.quick_seconds)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, setup.cpu_seconds)  # unhandled, its signal ends the process
    try:
        if isinstance(request, Setup):
            templates += _compiled(request)
            return Rendered()
        return _rendered(request, templates)
    except MemoryError:
        return _too_much(setup)
    except InvalidChat as error:
        return Rendered(refusal=error.message)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


class _TooSlow(BaseException):
    """The time of a quick chat is over. Not an Exception, which the template engine might catch."""


def _quickly(request: Render, templates: list[ChatTemplate], setup: Setup, seconds: float) -> Rendered:
    """Render a chat, or give up after ``seconds`` of CPU time.

    The process survives, unless one long operation keeps it from giving up: then SIGVTALRM ends it.
    """
    try:
        signal.signal(signal.SIGPROF, _give_up)
        signal.setitimer(signal.ITIMER_VIRTUAL, 2 * seconds)  # unhandled, its signal ends the process
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            return _rendered(request, templates)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except _TooSlow:
        return Rendered(was_slow=True)
    except MemoryError:
        return _too_much(setup)
    except InvalidChat as error:
        return Rendered(refusal=error.message)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _give_up(_number: int, _frame: object) -> NoReturn:
    raise _TooSlow


def _compiled(setup: Setup) -> list[ChatTemplate]:
    sources = [setup.source] if setup.tool_source is None else [setup.source, setup.tool_source]
    return [ChatTemplate(source, bos=setup.bos, eos=setup.eos) for source in sources]


def _rendered(request: Render, templates: list[ChatTemplate]) -> Rendered:
    template = templates[0]
    if request.tools:
        able = next((each for each in templates if each.takes_tools), None)
        if able is None:
            return Rendered(refusal=_NO_TOOLS, takes_no_tools=True)
        template = able
    text = template.render(
        request.messages,
        request.tools,
        now=request.now,
        variables=request.variables,
        opens_answer=request.opens_answer,
    )
    if len(text) > TEXT_BYTES:
        return Rendered(
            refusal=f"the model's chat template makes a text of over {TEXT_BYTES // _MIB} MiB of this chat"
        )
    # A template can produce half of a surrogate pair, which UTF-8 cannot encode.
    return Rendered(
        text=text.encode("utf-8", "replace").decode(),
        unused=tuple(sorted(request.variables.keys() - template.variables)),
    )


def _too_much(setup: Setup) -> Rendered:
    return Rendered(
        refusal=f"the model's chat template needs more than {setup.memory_bytes // _MIB} MiB for this chat"
    )


def _limit_memory(more: int) -> None:
    """Limit this process to ``more`` bytes beyond what it uses now, where the system supports that."""
    with suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + more
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
