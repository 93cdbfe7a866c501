"""Scripts that make bash, zsh and fish complete the flags of a command. No TensorFlow here.

The tools for this read parsers of argparse or click; a command's flags are absl's.
"""

import re
import shlex
import textwrap
from collections.abc import Sequence

from electra_cli.cli.help_text import FlagInfo

_DESCRIPTION_WIDTH = 70


def completion_script(program: str, shell: str, flags: Sequence[FlagInfo], *, takes_directories: bool = False) -> str:
    """Returns the script of a command; `takes_directories`: as arguments that are no flags."""
    function = "_" + re.sub(r"\W", "_", program)
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](program, function, flags, takes_directories)


_BASH = """\
# eval "$({program} --print_completion=bash)"
{function}() {{
  local line="${{COMP_LINE:0:COMP_POINT}}" word before flag value prefix="" words="" kind=""
  word="${{line##*[[:space:]]}}"
  before="${{line%"$word"}}"
  before="${{before%"${{before##*[![:space:]]}}"}}"
  before="${{before##*[[:space:]]}}"
  COMPREPLY=()
  case "$word" in
    --*=*) flag="${{word%%=*}}" value="${{word#*=}}"
      # Where words end at "=", the shell completes what stands behind it.
      [[ "$COMP_WORDBREAKS" == *=* ]] || prefix="$flag=" ;;
    --config.*.*) words={keys} ;;
    --config.*) words={sections} ;;
    -*) words={flags} ;;
    *) flag="$before" value="$word"
      [[ "$flag" == --* && "$flag" != *=* ]] || {bare} ;;
  esac
  if [[ -n "$words" ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
    [[ ${{#COMPREPLY[@]}} -eq 1 && "${{COMPREPLY[0]}}" == *[=.] ]] && compopt -o nospace
    return
  fi
  case "$flag" in
{cases}
  esac
  if [[ "$kind" == *,... ]]; then
    [[ "$value" == *,* ]] && prefix+="${{value%,*}}," value="${{value##*,}}"
    kind="${{kind%,...}}"
  fi
  [[ -n "$words" ]] && mapfile -t COMPREPLY < <(compgen -W "$words" -- "$value")
  [[ "$kind" == path ]] && mapfile -t -O "${{#COMPREPLY[@]}}" COMPREPLY < <(compgen -f -- "$value")
  [[ "$kind" == config ]] &&
    mapfile -t -O "${{#COMPREPLY[@]}}" COMPREPLY < <(compgen -f -X '!*.py' -- "$value"; compgen -d -- "$value")
  [[ "$kind" == directory ]] && mapfile -t COMPREPLY < <(compgen -d -- "$value")
  [[ -n "$kind" && -z "$prefix" ]] && compopt -o filenames
  COMPREPLY=("${{COMPREPLY[@]/#/$prefix}}")
}}
complete -F {function} {program}
"""


def _bash(program: str, function: str, flags: Sequence[FlagInfo], takes_directories: bool) -> str:
    names = [word for flag in flags for word in _words(flag) if "." not in flag.name]
    keys = [word for flag in flags for word in _words(flag)[:1] if "." in flag.name]
    # Of keys in no section, the keys.
    sections = sorted({f"{word[: word.rindex('.')]}." if word.count(".") > 1 else word for word in keys})
    cases = []
    for flag in flags:
        words, kind = _values(flag)
        if words or kind:
            cases.append(f"    --{flag.name}) words={shlex.quote(' '.join(words))} kind={kind} ;;")
    words_of_flags = shlex.quote(" ".join([*names, *(["--config."] if keys else [])]))
    return _BASH.format(
        program=program,
        function=function,
        flags=words_of_flags,
        bare='flag="" kind=directory' if takes_directories else f"words={words_of_flags}",
        sections=shlex.quote(" ".join(sections)),
        keys=shlex.quote(" ".join(keys)),
        cases="\n".join(cases),
    )


def _words(flag: FlagInfo) -> list[str]:
    """Returns how a flag begins on a command line."""
    if flag.value or "." in flag.name:
        return [f"--{flag.name}="]
    return [f"--{flag.name}"] if flag.name == "help" else [f"--{flag.name}", f"--no{flag.name}"]


def _values(flag: FlagInfo) -> tuple[list[str], str]:
    """Returns a flag's possible values, and its kind of path: directory, path (',...' for several), config, or ''."""
    words = [*flag.choices, *flag.suggestions]
    if flag.name == "config":
        return words, "config"
    kind = "directory" if flag.takes_directory else "path" if flag.takes_path else ""
    return words, f"{kind},..." if kind and flag.takes_several else kind


def _shortened(flag: FlagInfo) -> str:
    return textwrap.shorten(flag.description, _DESCRIPTION_WIDTH, placeholder=" ...")


def _zsh(program: str, function: str, flags: Sequence[FlagInfo], takes_directories: bool) -> str:
    lines = ["    '*:directory:_files -/'"] if takes_directories else []
    for flag in flags:
        words, kind = _values(flag)
        about = re.sub(r"([\[\]:\\])", r"\\\1", _shortened(flag))
        actions = {"directory": "_files -/", "path": "_files",
                   "directory,...": "_sequence _files -/", "path,...": "_sequence _files"}  # fmt: skip
        action = actions.get(kind, f"({' '.join(words)})" if words else " ")
        if kind == "config":
            action = f"{{compadd -- {' '.join(words)}; _files -g '*.py'}}"
        for word in _words(flag):
            value = f":{flag.value or 'value'}:{action}".replace("|", " or ") if word.endswith("=") else ""
            lines.append(f"    {shlex.quote(f'{word}[{about}]{value}')}")
    specs = " \\\n".join(lines)
    return (
        f'# eval "$({program} --print_completion=zsh)"\n'
        f"{function}() {{\n  _arguments \\\n{specs}\n}}\ncompdef {function} {program}\n"
    )


def _fish(program: str, _: str, flags: Sequence[FlagInfo], takes_directories: bool) -> str:
    lines = [f"# {program} --print_completion=fish | source", f"complete -c {program} -f"]
    if takes_directories:
        lines.append(f"complete -c {program} -a '(__fish_complete_directories)'")
    for flag in flags:
        words, kind = _values(flag)
        values = {"directory": "(__fish_complete_directories)", "path": "(__fish_complete_path)",
                  "config": "(__fish_complete_suffix .py)"}.get(kind.removesuffix(",..."), "")  # fmt: skip
        for word in _words(flag):
            takes = f" -x -a {_fish_quote(' '.join([*words, values]).strip())}" if word.endswith("=") else ""
            name = word.removeprefix("--").removesuffix("=")
            lines.append(f"complete -c {program} -l {name}{takes} -d {_fish_quote(_shortened(flag))}")
    return "\n".join(lines) + "\n"


def _fish_quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
