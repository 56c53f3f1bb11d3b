"""What TorchServe's front end writes down, and how much of it.

logs/console.log    the server's and its workers' words
logs/access.log     requests: address, status, milliseconds; errors without their text, which repeats what was posted
logs/start.log      what Java prints before and beside these
"""

from __future__ import annotations

from pathlib import Path

LOG_CONFIG = "log4j2.xml"
CONSOLE, START = "console.log", "start.log"
_MEGABYTES, _OLDER = 16, 2
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
    <Root level="info"><AppenderRef ref="console"/></Root>
  </Loggers>
</Configuration>
"""


def keep_last(folder: Path) -> None:
    """Put the log of the last run aside, so that a new one begins."""
    for name in (CONSOLE, START):
        if (folder / name).exists():
            (folder / name).replace(folder / name.replace(".log", ".last.log"))


def _appender(name: str, file: str, pattern: str) -> str:
    folder, older = "${env:LOG_LOCATION:-logs}", file.replace(".log", ".%i.log")
    return f"""\
    <RollingFile name="{name}" fileName="{folder}/{file}" filePattern="{folder}/{older}">
      <PatternLayout pattern="{pattern}"/>
      <Policies><SizeBasedTriggeringPolicy size="{_MEGABYTES} MB"/></Policies>
      <DefaultRolloverStrategy max="{_OLDER}"/>
    </RollingFile>"""
