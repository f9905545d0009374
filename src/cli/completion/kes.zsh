#compdef kes
# zsh completion for kes: put it into a folder of $fpath as _kes, or
#   source <(kes completion zsh)

_kes() {
    local -a lines matches
    local line
    lines=("${(@f)$("${~words[1]}" completion words -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ "${lines[1]}" == $'\tfiles' ]]; then
        [[ "$PREFIX" == --*=* ]] && compset -P '*='
        _files
        return
    fi
    for line in "${lines[@]}"; do
        [[ -n "$line" ]] && matches+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    done
    _describe 'kes' matches
}

if [[ "${funcstack[1]}" == _kes ]]; then
    _kes "$@"
else
    compdef _kes kes
fi
