# bash completion for kes: put it into /etc/bash_completion.d/kes, or
#   source <(kes completion bash)

_kes() {
    local IFS=$' \t\n' line words word cur given
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
    # What bash takes for the word begins after the last "=" or ":", so only that is given.
    given="${cur%"${cur##*[=:]}"}"
    while IFS= read -r line; do
        if [ "$line" = $'\tfiles' ]; then
            compopt -o default 2>/dev/null || COMPREPLY=($(compgen -f -- "${cur#"$given"}"))
            return
        fi
        printf -v word '%q' "${line%%$'\t'*}"
        COMPREPLY+=("${word#"$given"}")
    done < <("${1/#\~/$HOME}" completion words -- "${words[@]}" 2>/dev/null)
}

complete -F _kes kes
