# Completion of gangplank in bash. It asks the program, so it need not change with it: the one that is installed, and never
# one that merely lies where the command line points to.
_gangplank() {
  local IFS=$' \t\n' value text before
  local line="${COMP_LINE:0:COMP_POINT}"
  local words=()
  read -ra words <<<"$line"
  [[ $line == *[[:space:]] ]] && words+=("")
  local current="${words[${#words[@]} - 1]}"
  # What bash takes for the word may begin after an equals sign or a colon.
  before="${current%"$2"}"
  COMPREPLY=()
  while IFS=$'\t' read -r value text; do
    case $value in
      :files) compopt -o default 2>/dev/null ;;
      :directories) compopt -o dirnames 2>/dev/null ;;
      "$current"*) COMPREPLY+=("${value#"$before"}") ;;
    esac
  done < <(command gangplank completions --ask -- "${words[@]:1}" 2>/dev/null </dev/null)
}
complete -o nosort -F _gangplank gangplank 2>/dev/null || complete -F _gangplank gangplank
