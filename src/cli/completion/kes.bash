# bash completion for kes: put it into /etc/bash_completion.d/kes, or
#   source <(kes completion bash)

_kes() {
    local line words word cur lines i
    # The line is split at blanks only: bash would also split at "=" and ":".
    line="${COMP_LINE:0:COMP_POINT}"
    line="${line#*"$1"}"
    read -ra words <<<"$line"
    cur=
    case "$line" in
        *[[:space:]]) words+=('') ;;
        *) cur="${words[${#words[@]}-1]}" ;;
    esac
    COMPREPLY=()
    mapfile -t lines < <("${1/#\~/$HOME}" completion words -- "${words[@]}" 2>/dev/null)
    if [ "${lines[0]-}" = $'\tfiles' ]; then
        compopt -o default 2>/dev/null
        return
    fi
    # What bash takes for the word ends at the last "=" or ":", so only what follows is given.
    local given="${cur%"${cur##*[=:]}"}"
    for ((i = 0; i < ${#lines[@]}; i++)); do
        word="${lines[i]%%$'\t'*}"
        printf -v word '%q' "$word"
        COMPREPLY+=("${word#"$given"}")
    done
}

complete -F _kes kes
