"""What TorchServe's front end writes down, and how much of it.

logs/console.log    the server's and its workers' words
logs/access.log     requests: address, status, milliseconds; errors without their text, which repeats what was posted
logs/start.log      what Java prints before and beside these
"""

from __future__ import annotations

import re
from pathlib import Path

LOG_CONFIG = "log4j2.xml"
CONSOLE, START = "console.log", "start.log"
_MEGABYTES, _OLDER = 16, 2
_VALUE_OF_A_METRIC = r"result=\[METRICS\].*"
_DIED = "Backend worker process died"
# A worker that dies at once may leave a log without its traceback: after so many deaths nobody waits for it any more.
_DEATHS, _SILENT_DEATHS = 2, 5
_EXCEPTION = re.compile(r"[\w.]+(?:Error|Exception|Exit|Interrupt)\b")
# Line ends in messages are written as \n: nobody can make up lines. "%throwable{short.…}" is a place in the program.
_PLACE = "%throwable{short.className} %throwable{short.methodName} %throwable{short.lineNumber}"


def render_log_config() -> str:
    """The text of ``log4j2.xml``."""
    return f"""\
<?xml version="1.0" encoding="UTF-8"?>
<!-- Two logs of at most {_MEGABYTES} MB, and {_OLDER} older ones of each. -->
<Configuration status="error">
  <Appenders>
{_appender("console", CONSOLE, "%d{ISO8601} [%-5p] %t %c - %enc{%m}{CRLF}%n")}
{_appender("access", "access.log", f"%d{{ISO8601}} [%-5p] %enc{{%m}}{{CRLF}} {_PLACE}%n")}
  </Appenders>
  <Loggers>
    <!-- A form that cannot be parsed comes back whole in the text of Java's error: the text is left out. -->
    <Logger name="ACCESS_LOG" level="info" additivity="false"><AppenderRef ref="access"/></Logger>
    <Logger name="org.pytorch.serve.http" level="info" additivity="false"><AppenderRef ref="access"/></Logger>
    <Logger name="io.netty" level="error" additivity="false"><AppenderRef ref="access"/></Logger>
    <Logger name="org.apache" level="off"/>
    <!-- Metrics are at /metrics. -->
    <Logger name="MODEL_METRICS" level="off"/>
    <Logger name="TS_METRICS" level="off"/>
    <!-- A line for every answer, which the access log has as well. -->
    <Logger name="org.pytorch.serve.wlm.BatchAggregator" level="warn"/>
    <Root level="info"><AppenderRef ref="console"/></Root>
  </Loggers>
</Configuration>
"""


def is_hopeless(log: str) -> bool:
    """Whether workers keep dying while they load, and have said why."""
    deaths = log.count(_DIED)
    return deaths >= _SILENT_DEATHS or (deaths >= _DEATHS and bool(cause(log)))


def cause(log: str) -> list[str]:
    """The exception that ended a worker last, without its traceback; empty where none is written yet.

    Java copies a worker's output line by line, between its own: what a reader sees may end anywhere in a traceback.
    """
    found: list[str] = []
    said: list[str] | None = None  # from the exception on, until something else is heard
    died = False
    for line in log.splitlines():
        thread, mark, words = line.partition(" MODEL_LOG - ")
        if not mark:
            if said and "Stopped Scanner" in line and "stdout" in thread:
                found, said = said, None
            continue
        if words.startswith("s_name_part0="):  # the next worker
            found, said, died = said or found, None, False
        elif _DIED in words:
            died = True
        elif said is not None:
            said.append(words)
        elif died and _EXCEPTION.match(words):
            said = [words]
    return said or found


def keep_last(folder: Path) -> None:
    """Put the log of the last run aside, so that a new one begins."""
    for name in (CONSOLE, START):
        if (folder / name).exists():
            (folder / name).replace(folder / name.replace(".log", ".last.log"))


def _appender(name: str, file: str, pattern: str) -> str:
    folder, older = "${env:LOG_LOCATION:-logs}", file.replace(".log", ".%i.log")
    return f"""\
    <RollingFile name="{name}" fileName="{folder}/{file}" filePattern="{folder}/{older}">
      <!-- Every value of a metric would be a line, too. -->
      <RegexFilter regex="{_VALUE_OF_A_METRIC}" onMatch="DENY" onMismatch="NEUTRAL"/>
      <PatternLayout pattern="{pattern}"/>
      <Policies><SizeBasedTriggeringPolicy size="{_MEGABYTES} MB"/></Policies>
      <DefaultRolloverStrategy max="{_OLDER}"/>
    </RollingFile>"""
