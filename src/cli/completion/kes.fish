# fish completion for kes: put it into ~/.config/fish/completions/kes.fish, or
#   kes completion fish | source

function __kes_complete
    set -l before (commandline -opc)
    set -l current (commandline -ct)
    set -l lines ($before[1] completion words -- $before[2..] "$current" 2>/dev/null)
    if test "$lines[1]" = \tfiles
        set -l given (string match -r '^--[^=]*=' -- "$current")
        for path in (__fish_complete_path (string replace -- "$given" '' "$current"))
            printf '%s%s\n' "$given" "$path"
        end
    else if set -q lines[1]
        printf '%s\n' $lines
    end
end

complete -c kes -f -a '(__kes_complete)'
