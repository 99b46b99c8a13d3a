# Completion of gangplank in fish. It asks the program, so it need not change with it: the one that is installed, and never
# one that merely lies where the command line points to.
function __gangplank_complete
    set -l words (commandline -opc)
    # Variables may stand before the command.
    while string match -q -- '*=*' "$words[1]"
        set -e words[1]
    end
    set -e words[1]
    set -l current (commandline -ct)
    set -l rows (command gangplank completions --ask -- $words "$current" 2>/dev/null </dev/null)
    # Of --flag=path, the path.
    set -l flag (string replace -rf -- '^(--[^=]*=).*' '$1' "$current")
    set -l path (string replace -r -- '^--[^=]*=' '' "$current")
    switch "$rows[1]"
        case :files
            __fish_complete_path "$path" | string replace -r -- '^' "$flag"
        case :directories
            __fish_complete_directories "$path" | string replace -r -- '^' "$flag"
        case '*'
            printf '%s\n' $rows
    end
end
complete -c gangplank -f -k -a '(__gangplank_complete)'
