"""`tinylora completion`: what makes a shell complete commands, options, choices and files.

The scripts ask this program, by click's protocol: a line (three in zsh) for each completion, of the type plain, file or
dir. Where it answers file, or nothing, the shell completes file names as it does without. What stands behind the = of
--option=VALUE is completed like a word of its own.
"""

from __future__ import annotations

import click

from ..screens.terminal import say
from ..shell.command import Command

_BASH = r"""
_tinylora_complete() {
    local IFS=$'\n' type value words=() i answer
    COMPREPLY=()
    for ((i = 0; i <= COMP_CWORD; i++)); do  # bash has the = of --option=VALUE as a word
        if [[ ${COMP_WORDS[i]} != '=' ]] || ((i == COMP_CWORD)); then words+=("${COMP_WORDS[i]}"); fi
    done
    answer=$(COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]} - 1)) \
        _TINYLORA_COMPLETE=bash_complete "$1" 2>/dev/null)
    while IFS=',' read -r type value; do
        case $type in
            plain) COMPREPLY+=("$value") ;;
            dir) compopt -o dirnames ;;
        esac
    done <<< "$answer"
}
complete -o nosort -o bashdefault -o default -F _tinylora_complete tinylora
"""

_ZSH = r"""
#compdef tinylora
_tinylora_complete() {
    local -a response described plain
    local type key help files=1
    response=("${(@f)$(COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) \
        _TINYLORA_COMPLETE=zsh_complete ${words[1]} 2>/dev/null)}")
    [[ $PREFIX == --*=* ]] && compset -P 1 '*='
    for type key help in ${response}; do
        [[ $type == plain ]] && files=0
        if [[ $type != plain ]]; then continue
        elif [[ $help == _ ]]; then plain+=("$key")
        else described+=("$key:$help")
        fi
    done
    (( $#described )) && _describe -V unsorted described
    (( $#plain )) && compadd -V unsorted -a plain
    (( files )) && _files
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _tinylora_complete "$@"
else
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
    compdef _tinylora_complete tinylora
fi
"""

_FISH = r"""
function __tinylora_complete
    set -l token (commandline -t)
    set -l before (string match -r -- '^--[^=]+=' $token)
    set -l files 1
    for line in (_TINYLORA_COMPLETE=fish_complete COMP_WORDS=(commandline -cp | string collect) \
            COMP_CWORD="$token" tinylora 2>/dev/null)
        set -l parts (string split -m 2 , -- $line)
        if test "$parts[1]" = plain
            set files 0
            printf '%s\n' "$before$parts[2]"
        end
    end
    if test $files = 1
        for path in (__fish_complete_path (string replace -- "$before" '' $token))
            printf '%s\n' "$before$path"
        end
    end
end
complete --no-files --command tinylora --arguments '(__tinylora_complete)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


@click.command("completion", cls=Command)
@click.argument("shell", type=click.Choice(list(SCRIPTS)))
def command(shell: str) -> None:
    """Print what makes a shell complete commands, options, choices and files.

    \b
    Examples:
      tinylora completion bash
      tinylora completion zsh

    \b
    For good, a line in the shell's startup file:
      bash  ~/.bashrc                     eval "$(tinylora completion bash)"
      zsh   ~/.zshrc                      eval "$(tinylora completion zsh)"
      fish  ~/.config/fish/config.fish    tinylora completion fish | source
    """
    say(SCRIPTS[shell].strip())
